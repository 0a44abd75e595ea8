#!/usr/bin/env python3
"""Kills larder at random moments, fills its disks, lets registries fail, and hashes what is left with code that is not larder's.

    tests/chaos/chaos.py                    two minutes
    CHAOS_SECONDS=600 tests/chaos/chaos.py  ten
    CHAOS_KILLS=1000 tests/chaos/chaos.py   until so many runs were killed
    CHAOS_SEED=7 tests/chaos/chaos.py       the same content, faults and moments again (a machine's own timing differs all the same)
    CHAOS_ONLY=gc tests/chaos/chaos.py      only rounds of that name

LARDER names the program; target/debug/larder is the default. Every round has a folder of its own: a run is started, killed or starved of
disk several times, and after each time everything that has a name must be whole. At the end of a round the faults stop, and the same
command must finish with exit status 0 and leave exactly what an undisturbed run leaves. A round that finds damage keeps its folder.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import check  # noqa: E402
from check import Damage  # noqa: E402
from registry import Registry  # noqa: E402

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"

# A run that takes longer hangs.
LONGEST = 900


def build(seed):
    """An upstream with single images that share layers, indexes, and a signature; and the list of its names."""
    upstream, words = Registry(seed), random.Random(seed)
    shared = [words.randbytes(words.choice([500, 40_000, 400_000])) for _ in range(3)]
    platforms = [("linux", "amd64"), ("linux", "arm64"), ("linux", "s390x")]

    def image(repository, tag, platform=("linux", "amd64")):
        layers = [words.choice(shared), words.randbytes(words.choice([10, 5_000, 60_000, 700_000]))]
        layers = [(upstream.put_blob(repository, data), len(data)) for data in layers]
        config = ('{"architecture":"%s","os":"%s","rootfs":{"type":"layers","diff_ids":[]},"x":%d}' % (platform[1], platform[0], words.getrandbits(40))).encode()
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": upstream.put_blob(repository, config), "size": len(config)},
            "layers": [{"mediaType": LAYER, "digest": digest, "size": size} for digest, size in layers],
        }
        return upstream.put_manifest(repository, tag, MANIFEST, document)

    names = []
    for number in range(10):
        repository = "apps/%s" % "abcd"[number % 4]
        digest, _ = image(repository, "v%d" % number)
        names.append("%s:v%d" % (repository, number))
        if number == 0:
            image(repository, digest.replace(":", "-") + ".sig")
    for number in range(3):
        children = []
        for platform in platforms:
            digest, size = image("multi", None, platform)
            children.append({"mediaType": MANIFEST, "digest": digest, "size": size, "platform": dict(zip(("os", "architecture"), platform))})
        upstream.put_manifest("multi", "v%d" % number, INDEX, {"schemaVersion": 2, "mediaType": INDEX, "manifests": children})
        names.append("multi:v%d" % number)
    return upstream, names


class Round:
    """One round: an upstream, a folder, and how runs in it are started, killed and judged."""

    def __init__(self, chaos, name):
        self.chaos, self.name, self.random = chaos, name, chaos.random
        self.folder = tempfile.mkdtemp(prefix="larder-chaos-%s-" % name)
        self.upstream, self.names = build(chaos.random.getrandbits(32))
        self.mounts = []
        self.durations = {}

    def path(self, *parts):
        return os.path.join(self.folder, *parts)

    def write(self, name, text):
        with open(self.path(name), "w") as file:
            file.write(text)

    def configure(self, target, where="m"):
        rule = '[[rule]]\nname = "all"\nsource = "%s/*"\ntarget = "%s/*"\n' % (self.upstream.address, where)
        self.write("larder.toml", 'version = 1\nlists = ["list.txt"]\n[target]\n%s\n%s' % (target, rule))
        self.write("list.txt", "".join("%s/%s\n" % (self.upstream.address, name) for name in self.names))

    def expected(self, where="m"):
        tags = {}
        for repository, known in self.upstream.tags.items():
            for tag, digest in known.items():
                tags["%s/%s:%s" % (where, repository, tag)] = digest
        return tags

    def start(self, arguments):
        environment = {"PATH": os.environ["PATH"], "HOME": self.folder, "XDG_STATE_HOME": self.path("xdg"), "TMPDIR": self.folder}
        out = open(self.path("said.txt"), "ab")
        out.write(("\n$ larder %s\n" % " ".join(arguments)).encode())
        out.flush()
        return subprocess.Popen([self.chaos.larder, *arguments], cwd=self.folder, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    def finish(self, process):
        try:
            return process.wait(LONGEST)
        except subprocess.TimeoutExpired:
            process.kill()
            raise Damage("a run hangs: %s" % process.args)

    def run(self, arguments, *codes):
        started = time.monotonic()
        code = self.finish(self.start(arguments))
        self.durations[arguments[0]] = max(self.durations.get(arguments[0], 0), time.monotonic() - started)
        if codes and code not in codes:
            raise Damage("`larder %s` ended with %s instead of %s" % (" ".join(arguments), code, codes))
        return code

    def moment(self, command):
        """A moment to kill at: anywhere in a run, and twice as often near its beginning or after a request."""
        most = self.durations.get(command, 1.0) * 1.1
        kind = self.random.random()
        return self.random.uniform(0, most) if kind < 0.6 else most * self.random.random() ** 3

    def kill(self, *commands):
        """Starts these commands at once and kills them one after the other; counts those that were still running."""
        processes = [self.start(arguments) for arguments in commands]
        moments = sorted(self.moment(arguments[0]) for arguments in commands)
        started = time.monotonic()
        for process, moment in zip(self.random.sample(processes, len(processes)), moments):
            # What ends before its moment is not waited for.
            try:
                process.wait(max(0.0, moment - (time.monotonic() - started)))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
            if self.finish(process) == -signal.SIGKILL:
                self.chaos.killed(commands[0][0])

    def stir(self):
        """Faults at 3 to 30 %, or none."""
        self.upstream.rate = self.random.choice([0, 0.03, 0.1, 0.3])

    def calm(self):
        self.upstream.rate = 0

    def mount(self, name, size):
        """A disk of its own, if that is permitted."""
        os.makedirs(self.path(name), exist_ok=True)
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=%d" % size, "tmpfs", self.path(name)], capture_output=True)
        if done.returncode != 0:
            return False
        self.mounts.append(self.path(name))
        return True

    def grow(self, name, size):
        subprocess.run(["mount", "-o", "remount,size=%d" % size, self.path(name)], check=True)

    def close(self, keep):
        for server in [self.upstream, getattr(self, "target", None)]:
            if server:
                server.server.shutdown()
                server.server.server_close()
        for mount in self.mounts if not keep else []:
            subprocess.run(["umount", "-l", mount], check=False)
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)


def keeps(before, now, what):
    lost = set(before) - set(now)
    if lost:
        raise Damage("%s has lost %s" % (what, sorted(lost)))


def equal(got, wanted, what):
    if got != wanted:
        differs = sorted(name for name in set(got) | set(wanted) if got.get(name) != wanted.get(name))
        raise Damage("%s is not what an undisturbed run leaves: %s" % (what, differs))


def fallback(names):
    """Without the names under which signatures are looked for."""
    return {name: digest for name, digest in names.items() if ":sha256-" not in name}


def sync_layout(at, commands=1):
    at.configure('layout = "store"')
    names = {}
    for _ in range(at.random.randint(3, 10)):
        at.stir()
        at.kill(*[["sync", "--state", "state-%d" % number] for number in range(commands)])
        now, _ = check.layout(at.path("store"))
        keeps(names, now, "the layout")
        names = now
        if at.random.random() < 0.2:
            # `oci-layout` is written last when a layout is made.
            at.run(["verify", "store"], *([0] if os.path.exists(at.path("store", "oci-layout")) else [0, 1, 2]))
    at.calm()
    at.run(["sync", "--state", "state-0"], 0)
    now, _ = check.layout(at.path("store"))
    equal(fallback(now), fallback(at.expected()), "the layout")
    at.run(["verify", "store"], 0)


def two_syncs(at):
    sync_layout(at, 2)


def sync_registry(at):
    at.target = Registry(at.random.getrandbits(32))
    at.configure('registry = "%s"' % at.target.address)
    for _ in range(at.random.randint(3, 8)):
        at.stir()
        at.target.rate = at.upstream.rate
        at.kill(*[["sync"]] * at.random.choice([1, 1, 2]))
        check.registry(at.target)
    at.calm()
    at.target.rate = 0
    at.run(["sync"], 0)
    equal(fallback(check.registry(at.target)), fallback(at.expected()), "the registry")


def export_and_import(at):
    at.configure('layout = "store"')
    size = at.random.choice([None, 300_000, 1_500_000])
    export = ["export", "--to", "out", "--cache", "cache", "--name", "month"] + (["--volume-size", "%dB" % size] if size else [])
    for _ in range(at.random.randint(3, 9)):
        at.stir()
        at.kill(export)
        check.layout(at.path("cache"))
        check.bundle(at.path("out"), size)
    at.calm()
    at.run(export, 0)
    equal(fallback(check.bundle(at.path("out"), size)), fallback(at.expected()), "the bundle")
    at.run(["verify", "out"], 0)
    # The same again writes nothing, and repairs what was taken away.
    volumes = sorted(name for name in os.listdir(at.path("out")) if name.endswith(".tar"))
    victim = at.random.choice(volumes)
    with open(at.path("out", victim), "rb") as file:
        whole = file.read()
    os.remove(at.path("out", victim))
    number = str(int(victim[-8:-4]))
    for _ in range(2):
        at.kill(["export", "--repair", "out/month.bundle.json", "--volume", number, "--to", "out", "--cache", "cache"])
        for other in set(volumes) - {victim}:
            if not os.path.exists(at.path("out", other)):
                raise Damage("a repair has removed %s" % other)
    at.run(["export", "--repair", "out/month.bundle.json", "--volume", number, "--to", "out", "--cache", "cache"], 0)
    with open(at.path("out", victim), "rb") as file:
        if file.read() != whole:
            raise Damage("a repaired volume differs")
    if at.random.random() < 0.5:
        far, judge = ["--to", "oci:far"], lambda: check.layout(at.path("far"))[0]
    else:
        at.target = Registry(at.random.getrandbits(32))
        far, judge = ["--to", at.target.address], lambda: check.registry(at.target)
    names = {}
    for _ in range(at.random.randint(3, 9)):
        if hasattr(at, "target"):
            at.target.rate = at.random.choice([0, 0.03, 0.3])
        at.kill(*[["import", "out", *far, "--state", "far-%d" % number] for number in range(at.random.choice([1, 1, 2]))])
        now = judge()
        keeps(names, now, "the far side")
        names = now
    if hasattr(at, "target"):
        at.target.rate = 0
    at.run(["import", "out", *far, "--state", "far-0"], 0)
    equal(fallback(judge()), fallback(at.expected()), "the far side")
    check.bundle(at.path("out"), size)


def gc(at):
    at.configure('layout = "store"')
    at.run(["sync"], 0)
    names, _ = check.layout(at.path("store"))
    for _ in range(at.random.randint(2, 5)):
        # Images move, so that what they had is rubbish.
        moved = at.random.choice([name for name in at.names if name.startswith("apps/")])
        repository, tag = moved.split(":")
        manifests = at.upstream.manifests[repository]
        at.upstream.tags[repository][tag] = at.random.choice(sorted(manifests))
        at.run(["sync"], 0)
        names, _ = check.layout(at.path("store"))
        for _ in range(at.random.randint(2, 4)):
            commands = at.random.choice([[["gc", "store"]], [["gc", "store"], ["sync"]], [["gc", "store"], ["gc", "store"]]])
            at.kill(*commands)
            now, _ = check.layout(at.path("store"))
            # A signature goes with the image that has moved away.
            keeps(fallback(names), now, "the layout")
    at.run(["sync"], 0)
    at.run(["gc", "store"], 0)
    names, reached = check.layout(at.path("store"))
    equal(fallback(names), fallback(at.expected()), "the layout")
    rest = check.stored(at.path("store")) - reached
    if rest:
        raise Damage("gc has left %s" % sorted(rest))


def full_disk(at):
    """A disk that is full at some stage, of the layout, the bundle or the state; then it grows."""
    which = at.random.choice(["store", "out", "xdg"])
    at.configure('layout = "store/layout"')
    total = sum(len(data) for blobs in at.upstream.blobs.values() for data in blobs.values())
    if not at.mount(which, at.random.randint(4096, max(8192, total if which != "xdg" else 20_000))):
        at.chaos.say("a disk cannot be mounted here: full disks are NOT TESTED")
        return
    size = total * 3 + 50_000_000
    command = ["export", "--to", "out/bundle", "--cache", "store/layout", "--name", "month"] if which == "out" else ["sync"]
    for _ in range(at.random.randint(2, 4)):
        code = at.run(command)
        if code not in (0, 1, 3):
            raise Damage("on a full disk `larder %s` ended with %s" % (command[0], code))
        at.chaos.full += code != 0
        check.layout(at.path("store", "layout"))
        check.bundle(at.path("out", "bundle"))
        if at.random.random() < 0.5:
            at.kill(command)
            check.layout(at.path("store", "layout"))
    at.grow(which, size)
    at.run(command, 0)
    names, _ = check.layout(at.path("store", "layout"))
    equal(fallback(names), fallback(at.expected()), "the layout")
    if which == "out":
        equal(fallback(check.bundle(at.path("out", "bundle"))), fallback(at.expected()), "the bundle")


def faults(at):
    """No kill: everything must arrive, or be reported, and a calm run completes it."""
    at.target = Registry(at.random.getrandbits(32))
    at.configure('registry = "%s"' % at.target.address)
    at.upstream.rate = at.random.choice([0.03, 0.1, 0.3])
    at.target.rate = at.random.choice([0, 0.03, 0.1, 0.3])
    code = at.run(["sync"], 0, 1)
    at.chaos.arrived[code == 0] += 1
    if code == 0:
        equal(fallback(check.registry(at.target)), fallback(at.expected()), "the registry")
    check.registry(at.target)
    at.calm()
    at.target.rate = 0
    at.run(["sync"], 0)
    equal(fallback(check.registry(at.target)), fallback(at.expected()), "the registry")


ROUNDS = {
    "sync-layout": sync_layout,
    "two-syncs": two_syncs,
    "sync-registry": sync_registry,
    "export-import": export_and_import,
    "gc": gc,
    "full-disk": full_disk,
    "faults": faults,
}


class Chaos:
    def __init__(self):
        self.seed = int(os.environ.get("CHAOS_SEED") or random.SystemRandom().getrandbits(32))
        self.random = random.Random(self.seed)
        self.kills = {}
        self.full = 0
        self.arrived = {True: 0, False: 0}
        self.folder = tempfile.mkdtemp(prefix="larder-chaos-")
        given = os.environ.get("LARDER") or os.path.join(HERE, "..", "..", "target", "debug", "larder")
        # A copy: a build may replace the program meanwhile.
        self.larder = shutil.copy(given, os.path.join(self.folder, "larder"))

    def say(self, text):
        print("chaos: " + text, flush=True)

    def killed(self, command):
        self.kills[command] = self.kills.get(command, 0) + 1

    def total(self):
        return sum(self.kills.values())

    def main(self):
        most = int(os.environ["CHAOS_KILLS"]) if os.environ.get("CHAOS_KILLS") else None
        end = time.monotonic() + float(os.environ.get("CHAOS_SECONDS") or 120)
        only = os.environ.get("CHAOS_ONLY")
        names = [name for name in ROUNDS if not only or only in name]
        self.say("seed %d (CHAOS_SEED=%d does the same again)" % (self.seed, self.seed))
        damages, rounds = [], 0
        while (self.total() < most) if most else (time.monotonic() < end):
            name = names[rounds % len(names)]
            rounds += 1
            at = Round(self, name)
            keep = True
            try:
                ROUNDS[name](at)
                keep = False
            # A file that cannot be read as what it should be is damage as well.
            except (Damage, OSError, ValueError, KeyError) as damage:
                damages.append((name, str(damage)))
                self.say("DAMAGE in round %d (%s): %s; kept: %s" % (rounds, name, damage, at.folder))
                if len(damages) >= 10:
                    break
            finally:
                at.close(keep)
            if rounds % 20 == 0:
                self.say("%d rounds, %d kills so far" % (rounds, self.total()))
        shutil.rmtree(self.folder, ignore_errors=True)
        kills = ", ".join("%s %d" % item for item in sorted(self.kills.items()))
        self.say("%d rounds, %d kills (%s), %d runs on full disks, faults alone: %d of %d arrived at once; damage: %d" % (
            rounds, self.total(), kills, self.full, self.arrived[True], sum(self.arrived.values()), len(damages)))
        return 1 if damages else 0


if __name__ == "__main__":
    sys.exit(Chaos().main())
