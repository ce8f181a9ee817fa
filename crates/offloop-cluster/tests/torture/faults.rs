//! What fails: agents, servers, and the network between them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::load::{AGENTS, World};

/// What is undone later.
enum Undo {
    ResumeAgent(usize),
    Mend(usize),
    RestartServer(usize),
    ResumeServer(usize),
}

/// Injects one fault after the other. Several may last at a time.
pub(crate) struct Faults {
    world: Arc<World>,
    rng: Rng,
    lasting: Vec<(Instant, Undo)>,
    counts: BTreeMap<&'static str, u64>,
}

impl Faults {
    pub(crate) fn new(world: Arc<World>) -> Self {
        let rng = Rng::with_seed(world.seed);
        Self { world, rng, lasting: Vec::new(), counts: BTreeMap::new() }
    }

    /// Waits for a while, undoes what has lasted long enough, and injects another fault.
    pub(crate) fn inject(&mut self) {
        let pause = Instant::now() + Duration::from_millis(self.rng.u64(500..3000));
        while Instant::now() < pause {
            self.undo(false);
            self.replace_dead_agents();
            std::thread::sleep(Duration::from_millis(50));
        }
        let agent = self.rng.usize(..AGENTS);
        let lasts = Instant::now() + Duration::from_millis(self.rng.u64(100..7000));
        let servers = self.world.servers.lock().unwrap().count();
        let server = self.rng.usize(..servers);
        // Of three servers two have to be there.
        let is_server_free = !self
            .lasting
            .iter()
            .any(|(_, undo)| matches!(undo, Undo::RestartServer(_) | Undo::ResumeServer(_)));
        let name = match self.rng.u32(..12) {
            0..3 => {
                self.world.agents.lock().unwrap()[agent].kill();
                "agent killed"
            }
            3 => {
                self.world.agents.lock().unwrap()[agent].terminate();
                "agent told to end"
            }
            4..6 => {
                self.world.agents.lock().unwrap()[agent].pause();
                self.lasting.push((lasts, Undo::ResumeAgent(agent)));
                "agent stopped"
            }
            6..8 => {
                let way = self.rng.usize(..=AGENTS);
                self.world.proxies[way].cut(true);
                self.lasting.push((lasts, Undo::Mend(way)));
                "network cut"
            }
            8 => {
                self.world.proxies[self.rng.usize(..=AGENTS)].swallow();
                "connections swallowed"
            }
            9..11 if is_server_free => {
                self.world.servers.lock().unwrap().kill(server);
                let soon = Instant::now() + Duration::from_millis(self.rng.u64(..1000));
                self.lasting.push((if servers > 1 { lasts } else { soon }, Undo::RestartServer(server)));
                "server killed"
            }
            11 if is_server_free => {
                self.world.servers.lock().unwrap().pause(server);
                self.lasting.push((lasts, Undo::ResumeServer(server)));
                "server stopped"
            }
            _ => return,
        };
        *self.counts.entry(name).or_default() += 1;
    }

    /// Undoes what has lasted long enough, or all.
    fn undo(&mut self, all: bool) {
        let now = Instant::now();
        for (until, undo) in std::mem::take(&mut self.lasting) {
            if until > now && !all {
                self.lasting.push((until, undo));
                continue;
            }
            match undo {
                Undo::ResumeAgent(at) => {
                    let mut agents = self.world.agents.lock().unwrap();
                    if !agents[at].is_dead() {
                        agents[at].resume();
                    }
                }
                Undo::Mend(at) => self.world.proxies[at].cut(false),
                Undo::RestartServer(at) => self.world.servers.lock().unwrap().restart(at),
                Undo::ResumeServer(at) => self.world.servers.lock().unwrap().resume(at),
            }
        }
    }

    /// Starts another agent for each that was killed, or that has ended.
    fn replace_dead_agents(&self) {
        let mut agents = self.world.agents.lock().unwrap();
        for (agent, instructions) in agents.iter_mut().zip(&self.world.instructions) {
            if agent.is_dead() {
                *agent = instructions.start();
            }
        }
    }

    /// Undoes all faults, and sees to it that all agents are there, while the last jobs end.
    pub(crate) fn heal(&mut self) {
        self.undo(true);
        self.replace_dead_agents();
    }

    pub(crate) fn print(&self) {
        let counts: Vec<_> = self.counts.iter().map(|(name, count)| format!("{count} x {name}")).collect();
        println!("faults: {}", counts.join(", "));
    }
}
