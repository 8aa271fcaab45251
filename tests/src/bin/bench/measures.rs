//! What is measured: the rows that several programs have, or that stand for a goal.

use crate::report::Better::{Higher, Lower, Neither};
use crate::report::Measure;

const WIRES: &str = "wire, bytes a sample";
/// Frames, acknowledgements, TLS and HTTP/2; or requests, answers and HTTP.
pub static WIRE: Measure =
    Measure::new(WIRES, "all bytes of the connection, one frame a scrape", Lower);
/// For comparison: what comes in.
pub static BODIES: Measure = Measure::new(WIRES, "remote write 1.0, bodies", Neither);

const INGEST: &str = "ingest";
/// From remote-write body to sent frame.
pub static AGENT_SPEED: Measure = Measure::new(INGEST, "samples per CPU-second, agents", Higher);
/// From frame or body until it is on the disk.
pub static SERVER_SPEED: Measure = Measure::new(INGEST, "samples per CPU-second, server", Higher);
/// Of the clock; the load itself has its share of the machine.
pub static SPEED: Measure = Measure::new(INGEST, "samples per second", Neither);
/// Until the folder is at rest.
pub static SERVER_WRITTEN: Measure = Measure::new(INGEST, "bytes written a sample, server", Lower);
/// Spools.
pub static AGENT_WRITTEN: Measure = Measure::new(INGEST, "bytes written a sample, agents", Neither);
/// The most that was resident.
pub static SERVER_MEMORY: Measure = Measure::new(INGEST, "peak memory MB, server", Lower);
/// The mean of the agents'.
pub static AGENT_MEMORY: Measure = Measure::new(INGEST, "peak memory MB, one agent", Lower);

const ACKNOWLEDGEMENTS: &str = "acknowledgements at a pace";
/// The pace.
pub static PACE: Measure = Measure::new(ACKNOWLEDGEMENTS, "samples per second", Neither);
/// As the agents count it.
pub static ACK_P50: Measure =
    Measure::new(ACKNOWLEDGEMENTS, "frame to durable acknowledgement, p50 ms", Lower);
/// As the agents count it.
pub static ACK_P99: Measure =
    Measure::new(ACKNOWLEDGEMENTS, "frame to durable acknowledgement, p99 ms", Lower);
/// The agent has it in its spool.
pub static ANSWER_P50: Measure =
    Measure::new(ACKNOWLEDGEMENTS, "remote write to its answer (spooled), p50 ms", Lower);
/// The agent has it in its spool.
pub static ANSWER_P99: Measure =
    Measure::new(ACKNOWLEDGEMENTS, "remote write to its answer (spooled), p99 ms", Lower);
/// What the disk takes without us.
pub static SYNC_P50: Measure =
    Measure::new(ACKNOWLEDGEMENTS, "the disk's own fdatasync of 8 KiB, p50 ms", Neither);
/// What the disk takes without us.
pub static SYNC_P99: Measure =
    Measure::new(ACKNOWLEDGEMENTS, "the disk's own fdatasync of 8 KiB, p99 ms", Neither);

/// The section of the data folder.
pub const DISK: &str = "disk, bytes a sample";
/// At rest after ingest, still running.
pub static INGESTED: Measure = Measure::new(DISK, "as ingested", Lower);
/// After a forced merge, or in blocks only, or after an ordered end.
pub static COMPACTED: Measure = Measure::new(DISK, "compacted", Lower);

const LOSS: &str = "loss";
/// 1 if nothing is missing.
pub static STORED: Measure = Measure::new(LOSS, "part of the sent samples that is there", Neither);
/// 0 if nothing that was acknowledged is lost.
pub static LOST: Measure =
    Measure::new(LOSS, "SIGKILL after the last answer, % of acknowledged lost", Lower);
/// How often that was tried.
pub static KILLS: Measure = Measure::new(LOSS, "in so many kills", Neither);

/// From starting it again to `/-/ready`.
pub static READY: Measure = Measure::new("recovery", "SIGKILL to ready again, ms", Lower);
