//! A collector that holds the PKI folder, and many agents of it.

use std::fs;

use serde_json::Value;

use crate::eventually;
use crate::load::Load;
use crate::process::Process;
use crate::world::{Agent, Collector, EVERYTHING, World, binary, free_port};

/// Configuration of a collector that enrols, renews and rotates.
pub const PKI: &str = "pki: { dir: pki }\n";

/// A world with its collector and agents.
#[derive(Debug)]
pub struct Fleet {
    /// Where they live.
    pub world: World,
    /// The collector.
    pub collector: Collector,
    /// The agents, one a cluster, named `c-0`, `c-1` and so on.
    pub agents: Vec<Agent>,
}

impl Fleet {
    /// Starts a collector and so many agents, and waits until all are connected.
    pub async fn start(count: u32) -> Self {
        Self::with((0..count).map(|_| None).collect()).await
    }

    /// The same with agents that wait for the collector to dial them.
    pub async fn start_dialled(count: u32) -> Self {
        let address = |_| Some(format!("127.0.0.1:{}", free_port()));
        Self::with((0..count).map(address).collect()).await
    }

    /// Agents, each with the address on which it waits, if it does.
    async fn with(addresses: Vec<Option<String>>) -> Self {
        let world = World::new();
        let (mut dial, mut agents) = (String::new(), Vec::new());
        for (number, address) in addresses.iter().enumerate() {
            if let Some(address) = address {
                dial += &format!("  - {{ cluster: c-{number}, address: '{address}' }}\n");
            }
        }
        let dial = if dial.is_empty() { dial } else { format!("dial:\n{dial}") };
        let collector = world.collector(&format!("{PKI}{dial}")).await;
        for (number, address) in addresses.iter().enumerate() {
            let cluster = format!("c-{number}");
            let listen = address.as_ref().map(|at| format!("listen: {{ grpc: '{at}' }}\n"));
            let listen = listen.unwrap_or_default();
            agents.push(world.agent(&cluster, collector.ingest, EVERYTHING, &listen).await);
        }
        for agent in &agents {
            collector.connected(&agent.cluster, true).await;
        }
        Self { world, collector, agents }
    }

    /// Starts load on every agent, `STORIES_RATE` bodies a second on each.
    pub fn load(&self) -> Load {
        Load::start(&self.agents, setting("STORIES_RATE", 20))
    }

    /// Starts `tributary-certs rotate` on the folder of the PKI.
    pub fn rotate(&self, arguments: &[&str]) -> Process {
        let pki = self.world.path("pki").display().to_string();
        let mut all = vec!["rotate", "--dir", &pki];
        all.extend(arguments);
        let all = all.into_iter().map(str::to_owned).collect();
        Process::start(binary("tributary-certs"), all, self.world.path("rotate.log"))
    }

    /// The rotation that is going on, as `state.json` has it; null if there is none.
    pub fn rotation(&self) -> Value {
        let text = fs::read_to_string(self.world.path("pki/state.json")).unwrap_or_default();
        let state: Value = serde_json::from_str(&text).unwrap_or_default();
        state["rotation"].clone()
    }

    /// The serial numbers of the certificates that the agents are connected with.
    pub async fn serials(&self) -> Vec<String> {
        let mut serials = Vec::new();
        for agent in &self.agents {
            let told = self.collector.agent(&agent.cluster).await;
            serials.push(told["certificate_serial"].as_str().unwrap_or("").to_owned());
        }
        serials
    }

    /// Waits until the rotation is in another step than `seen`; `false` if it is over.
    pub async fn passes_a_step(&self, seen: &mut String) -> bool {
        *seen = eventually("the rotation goes on", async || {
            let step = self.rotation()["step"].as_str().unwrap_or("").to_owned();
            (step != *seen).then_some(step)
        })
        .await;
        !seen.is_empty()
    }

    /// Waits until every stream is of the second authority, and fails if anybody still trusts the first.
    pub async fn is_on_new_authority(&self) {
        let streams = "tributary_collector_ingest_streams_by_issuer";
        eventually("all streams are of the new authority", async || {
            let old = self.collector.metric(streams, &["Tributary CA 1"]).await;
            let new = self.collector.metric(streams, &["Tributary CA 2"]).await;
            (old == 0.0 && new == self.agents.len() as f64).then_some(())
        })
        .await;
        let authority = fs::read_to_string(self.world.path("pki/ca.crt")).unwrap();
        for agent in &self.agents {
            let bundle = self.world.path(&agent.cluster).join("tls/ca.crt");
            assert_eq!(fs::read_to_string(bundle).unwrap(), authority, "{}", agent.cluster);
        }
    }

    /// Kills the collector, an agent and the command, and starts them again.
    pub fn kill_everybody(&mut self, rotate: &mut Process, agent: usize) {
        rotate.kill();
        self.collector.process.kill();
        let count = self.agents.len();
        self.agents[agent % count].process.restart();
        self.collector.process.restart();
        rotate.restart();
    }

    /// Handshakes and sessions that failed so far, as either side counts them; no number while somebody is not running.
    pub async fn failures(&self) -> f64 {
        let refused = "tributary_collector_ingest_connections_refused_total";
        let mut failures = self.collector.metric(refused, &[]).await;
        for agent in &self.agents {
            failures += agent.metric("tributary_agent_session_failures_total", &[]).await;
        }
        failures
    }
}

/// A number from the environment, so that the same stories are short in CI and heavy elsewhere.
pub fn setting(name: &str, default: u32) -> u32 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e}")),
        Err(_) => default,
    }
}
