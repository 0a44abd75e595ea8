"""Hashes what larder has written: layouts, bundles, and the registry of `registry.py`. It shares no code with larder."""

import hashlib
import json
import os
import tarfile

NAME = "org.opencontainers.image.ref.name"


class Damage(Exception):
    pass


def sha256(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def walk(descriptor, manifest, blob, seen):
    """Reads a whole graph; `manifest` and `blob` give bytes by digest."""
    digest = descriptor["digest"]
    if digest in seen:
        return
    seen.add(digest)
    data = manifest(digest)
    if data is None or sha256(data) != digest:
        raise Damage("manifest %s is %s" % (digest, "missing" if data is None else "damaged"))
    if "size" in descriptor and descriptor["size"] != len(data):
        raise Damage("%s has %d bytes, its descriptor says %d" % (digest, len(data), descriptor["size"]))
    document = json.loads(data)
    for child in document.get("manifests", []):
        walk(child, manifest, blob, seen)
    for piece in ([document["config"]] if "config" in document else []) + document.get("layers", []):
        found = blob(piece["digest"])
        if found is None:
            raise Damage("blob %s of %s is missing" % (piece["digest"], digest))
        if len(found) != piece["size"] or sha256(found) != piece["digest"]:
            raise Damage("blob %s of %s is damaged" % (piece["digest"], digest))
        seen.add(piece["digest"])


def names_of(index, reader):
    """Every name in an index, with its digest; every graph is read."""
    seen, names = set(), {}
    for entry in index.get("manifests", []):
        walk(entry, reader, reader, seen)
        name = entry.get("annotations", {}).get(NAME)
        if name:
            if name in names:
                raise Damage("%s is listed twice" % name)
            names[name] = entry["digest"]
    return names, seen


def layout(folder):
    """The names of a layout, and all digests that they reach. An absent layout has none."""
    path = os.path.join(folder, "index.json")
    if not os.path.exists(path):
        return {}, set()
    try:
        with open(path, "rb") as file:
            index = json.load(file)
    except ValueError as error:
        raise Damage("index.json: %s" % error)
    marker = os.path.join(folder, "oci-layout")
    if not os.path.exists(marker):
        # It comes last when a layout is made: what was killed half-way is no layout yet, and holds nothing.
        if index.get("manifests"):
            raise Damage("oci-layout is missing")
        return {}, set()
    with open(marker, "rb") as file:
        if json.load(file)["imageLayoutVersion"] != "1.0.0":
            raise Damage("oci-layout of another version")

    def read(digest):
        try:
            with open(os.path.join(folder, "blobs", *digest.split(":")), "rb") as file:
                return file.read()
        except FileNotFoundError:
            return None

    names, seen = names_of(index, read)
    # Under its digest there is nothing else, listed or not.
    blobs = os.path.join(folder, "blobs", "sha256")
    for name in os.listdir(blobs) if os.path.isdir(blobs) else []:
        with open(os.path.join(blobs, name), "rb") as file:
            if hashlib.sha256(file.read()).hexdigest() != name:
                raise Damage("blobs/sha256/%s is damaged" % name)
    return names, seen


def stored(folder):
    """All digests that a layout has files for."""
    blobs = os.path.join(folder, "blobs", "sha256")
    return {"sha256:" + name for name in os.listdir(blobs)} if os.path.isdir(blobs) else set()


def bundle(folder, most=None):
    """The names of the only bundle in a folder, read out of its volumes with tarfile. `None`: there is no record."""
    records = [name for name in os.listdir(folder) if name.endswith(".bundle.json")] if os.path.isdir(folder) else []
    if not records:
        return None
    if len(records) > 1:
        raise Damage("%d records in one folder" % len(records))
    with open(os.path.join(folder, records[0]), "rb") as file:
        record = json.load(file)
    content, parts, index = {}, {}, None
    for volume in record["volumes"]:
        path = os.path.join(folder, volume["file"])
        with open(path, "rb") as file:
            data = file.read()
        if len(data) != volume["size"] or hashlib.sha256(data).hexdigest() != volume["sha256"].removeprefix("sha256:"):
            raise Damage("%s is not what the record says" % volume["file"])
        if most and len(data) > most:
            raise Damage("%s is larger than --volume-size" % volume["file"])
        with tarfile.open(path) as tar:
            for member in tar:
                data = tar.extractfile(member).read()
                words = member.name.split("/")
                if member.name == "index.json":
                    index = json.loads(data)
                elif words[0] == "blobs":
                    content["%s:%s" % (words[1], words[2])] = data
                elif words[:2] == ["larder", "parts"]:
                    parts.setdefault("%s:%s" % (words[2], words[3]), {})[words[4]] = data
    for digest, pieces in parts.items():
        content[digest] = b"".join(pieces[number] for number in sorted(pieces))
    names, _ = names_of(index, content.get)
    return names


def registry(target):
    """The names of a registry's tags; every graph is read."""
    names = {}
    with target.lock:
        for repository, tags in target.tags.items():
            manifests, blobs = target.manifests.get(repository, {}), target.blobs.get(repository, {})
            for tag, digest in tags.items():
                walk({"digest": digest}, lambda wanted: manifests.get(wanted, (None, None))[1], blobs.get, set())
                names["%s:%s" % (repository, tag)] = digest
        if target.problems:
            raise Damage("; ".join(target.problems))
    return names
