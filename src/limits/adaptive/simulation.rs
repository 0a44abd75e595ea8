//! The limit against simulated servers, under a paused clock: what it settles at, and how much throughput that brings.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::*;

/// The time in which a limit is found, and the time after it in which answers are counted.
const FINDING: Duration = Duration::from_secs(10);
const COUNTING: Duration = Duration::from_secs(20);
/// Tasks that always have a request to send.
const CLIENTS: usize = 100;

/// A server behind a network with a latency. It works on as many requests at once as it has cores.
struct SimulatedServer {
    way: Duration,
    work: Duration,
    cores: Semaphore,
    /// It refuses what exceeds this many requests at once.
    most: usize,
    /// The work of a request varies, exponentially.
    varies: bool,
    in_flight: AtomicUsize,
    random: Mutex<u64>,
}

impl SimulatedServer {
    fn new(way: u64, work: u64, cores: usize) -> Self {
        SimulatedServer {
            way: Duration::from_millis(way),
            work: Duration::from_millis(work),
            cores: Semaphore::new(cores),
            most: usize::MAX,
            varies: false,
            in_flight: AtomicUsize::new(0),
            random: Mutex::new(0x9E37_79B9_7F4A_7C15),
        }
    }

    /// An evenly distributed number above 0, at most 1 (xorshift: the same every time).
    fn random(&self) -> f64 {
        let mut state = self.random.lock();
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        ((*state >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    /// False: refused.
    async fn answer(&self, times: f64) -> bool {
        let others = self.in_flight.fetch_add(1, Ordering::SeqCst);
        let taken = others < self.most;
        tokio::time::sleep(self.way).await;
        if taken {
            let factor = if self.varies { -self.random().ln() } else { 1.0 };
            let _core = self.cores.acquire().await.unwrap();
            tokio::time::sleep(self.work.mul_f64(times * factor)).await;
        }
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
        taken
    }
}

/// What came of a run.
#[derive(Debug, Default)]
struct Tally {
    answers: AtomicUsize,
    refusals: AtomicUsize,
    /// The sum of the limit at each answer.
    limits: AtomicUsize,
}

impl Tally {
    fn answers(&self) -> usize {
        self.answers.load(Ordering::SeqCst)
    }
    fn refusals(&self) -> usize {
        self.refusals.load(Ordering::SeqCst)
    }
    /// The mean limit.
    fn limit(&self) -> usize {
        self.limits.load(Ordering::SeqCst) / self.answers().max(1)
    }
}

/// Clients that send requests of `class` through `limit`, each `times` the usual work, until the end of the time.
fn clients(tasks: &mut JoinSet<()>, limit: &AdaptiveLimit, server: &Arc<SimulatedServer>, class: RequestClass, times: f64) -> Arc<Tally> {
    let tally = Arc::new(Tally::default());
    let began = Instant::now();
    for _ in 0..CLIENTS {
        let (limit, server, tally) = (limit.clone(), Arc::clone(server), Arc::clone(&tally));
        tasks.spawn(async move {
            while began.elapsed() < FINDING + COUNTING {
                let permit = limit.permit(class).await;
                let sent = Instant::now();
                let counts = began.elapsed() >= FINDING;
                if server.answer(times).await {
                    permit.answered(AnswerGroup::new(0, (times * 1024.0) as u64), sent.elapsed());
                    if counts {
                        tally.answers.fetch_add(1, Ordering::SeqCst);
                        tally.limits.fetch_add(limit.limit(class), Ordering::SeqCst);
                    }
                } else {
                    permit.refused();
                    drop(permit);
                    tally.refusals.fetch_add(usize::from(counts), Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(250)).await;
                }
            }
        });
    }
    tally
}

async fn found(server: SimulatedServer) -> Arc<Tally> {
    let mut tasks = JoinSet::new();
    let tally = clients(&mut tasks, &AdaptiveLimit::new(64), &Arc::new(server), RequestClass::Small, 1.0);
    tasks.join_all().await;
    tally
}

/// Answers in the same time with a fixed number of requests in flight.
async fn fixed(server: SimulatedServer, number: usize) -> usize {
    let (server, began, answers) = (Arc::new(server), Instant::now(), Arc::new(AtomicUsize::new(0)));
    let mut tasks = JoinSet::new();
    for _ in 0..number {
        let (server, answers) = (Arc::clone(&server), Arc::clone(&answers));
        tasks.spawn(async move {
            while began.elapsed() < COUNTING {
                if server.answer(1.0).await {
                    answers.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
    }
    tasks.join_all().await;
    answers.load(Ordering::SeqCst)
}

#[tokio::test(start_paused = true)]
async fn at_a_server_whose_latency_never_grows_the_limit_climbs_to_the_ceiling() {
    let tally = found(SimulatedServer::new(30, 0, 1000)).await;
    assert!(tally.limit() >= 60, "{tally:?}");
    let most = fixed(SimulatedServer::new(30, 0, 1000), 64).await;
    assert!(tally.answers() * 100 >= most * 95, "{tally:?} of {most}");
}

#[tokio::test(start_paused = true)]
async fn a_hundred_answers_are_enough_to_reach_the_ceiling() {
    let limit = AdaptiveLimit::new(64);
    let mut tasks = JoinSet::new();
    clients(&mut tasks, &limit, &Arc::new(SimulatedServer::new(30, 0, 1000)), RequestClass::Small, 1.0);
    tokio::time::sleep(Duration::from_millis(30 * 7)).await;
    assert_eq!(limit.limit(RequestClass::Small), 64, "doubled every two round trips");
}

#[tokio::test(start_paused = true)]
async fn at_a_server_with_few_cores_the_limit_settles_where_they_are_busy() {
    for (way, work, cores) in [(0, 10, 2), (0, 10, 8), (0, 10, 24), (20, 10, 4), (30, 5, 4), (2, 20, 12)] {
        // By Little's law, this number of requests keeps all cores busy.
        let busy = cores * (way + work) as usize / work as usize;
        let tally = found(SimulatedServer::new(way, work, cores)).await;
        let most = fixed(SimulatedServer::new(way, work, cores), busy).await;
        assert!(tally.answers() * 100 >= most * 90, "{way} ms, {work} ms, {cores} cores: {tally:?} of {most}");
        assert!(tally.limit() <= busy * 2, "{way} ms, {work} ms, {cores} cores: {} of {busy}", tally.limit());
    }
}

#[tokio::test(start_paused = true)]
async fn latencies_that_vary_much_hide_neither_the_ceiling_nor_the_cores() {
    // All of the latency is random, with a deviation as large as its mean.
    let tally = found(SimulatedServer { varies: true, ..SimulatedServer::new(0, 30, 1000) }).await;
    let most = fixed(SimulatedServer { varies: true, ..SimulatedServer::new(0, 30, 1000) }, 64).await;
    assert!(tally.answers() * 100 >= most * 80, "{tally:?} of {most}");
    let tally = found(SimulatedServer { varies: true, ..SimulatedServer::new(20, 10, 4) }).await;
    let most = fixed(SimulatedServer { varies: true, ..SimulatedServer::new(20, 10, 4) }, 64).await;
    assert!(tally.answers() * 100 >= most * 90, "{tally:?} of {most}");
    assert!(tally.limit() <= 32, "{tally:?}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_refuses_what_is_too_much_is_asked_for_too_much_once_a_minute() {
    for most in [4, 12, 20, 50] {
        let tally = found(SimulatedServer { most, ..SimulatedServer::new(30, 0, 1000) }).await;
        let best = fixed(SimulatedServer::new(30, 0, 1000), most).await;
        assert!(tally.answers() * 100 >= best * 80, "{most}: {tally:?} of {best}");
        assert!(tally.refusals() * 50 <= tally.answers(), "{most}: {tally:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn large_blobs_beside_small_requests_take_neither_their_slots_nor_each_others_throughput() {
    // Blobs and requests are answered by different servers, storage and API, as most registries do.
    let (api, storage) = (Arc::new(SimulatedServer::new(30, 0, 1000)), Arc::new(SimulatedServer::new(30, 20, 4)));
    let limit = AdaptiveLimit::new(64);
    let mut tasks = JoinSet::new();
    let small = clients(&mut tasks, &limit, &api, RequestClass::Small, 1.0);
    let blobs = clients(&mut tasks, &limit, &storage, RequestClass::Bulk, 1.0);
    let large = clients(&mut tasks, &limit, &storage, RequestClass::Bulk, 20.0);
    tasks.join_all().await;
    let work = blobs.answers() as f64 * 0.02 + large.answers() as f64 * 0.4;
    assert!(work >= 0.9 * 4.0 * COUNTING.as_secs_f64(), "the storage was busy for {work} s: {blobs:?} {large:?}");
    // Both share the ceiling.
    let most = fixed(SimulatedServer::new(30, 0, 1000), 64 - large.limit()).await;
    assert!(small.answers() * 100 >= most * 80, "{small:?} of {most}, {large:?}");
}
