//! How far a rotation is, as a table and as JSON.

use std::cmp::Ordering;
use std::time::SystemTime;

use serde_json::{Value, json};

use super::{Kind, Lack, Rotation, Step};
use crate::certificate::{hex, rfc3339, utc};
use crate::state::State;
use crate::table::{self, ago};

/// What `tributary-certs rotate --status` prints.
pub fn table(state: &State, now: SystemTime) -> String {
    let Some(rotation) = &state.rotation else { return past(state, now) };
    let begun = (utc(rotation.started_at), ago(rotation.started_at, now));
    let head = format!("rotation of {}, begun {} ({} ago)\n", subject(rotation), begun.0, begun.1);
    let line = |step: Step| {
        let (mark, state) = match step.cmp(&rotation.step) {
            Ordering::Less => ('✓', String::new()),
            Ordering::Equal if rotation.paused => {
                ('‖', "  (stopped before it, as asked)".to_owned())
            }
            Ordering::Equal => ('→', format!("  (for {})", ago(rotation.step_since, now))),
            Ordering::Greater => (' ', String::new()),
        };
        format!("  {mark} {:<10} {}{state}\n", step.as_str(), rotation.kind.explain(step))
    };
    let steps: String = steps(rotation).map(line).collect();
    let carried = match rotation.carried_at {
        Some(at) => format!("carried out by a collector, last {} ago\n", ago(at, now)),
        None => "no collector has looked at it yet\n".to_owned(),
    };
    head + &steps + &carried + &agents(rotation, now)
}

/// What `tributary-certs rotate --dry-run` prints.
pub fn plan(rotation: &Rotation, now: SystemTime) -> String {
    let line = |step: Step| format!("    {:<10} {}\n", step.as_str(), rotation.kind.explain(step));
    let steps: String = steps(rotation).map(line).collect();
    format!("would rotate {}, in these steps:\n{steps}{}", subject(rotation), agents(rotation, now))
}

fn steps(rotation: &Rotation) -> impl Iterator<Item = Step> {
    rotation.kind.steps().iter().copied().filter(|step| *step != Step::Done)
}

fn agents(rotation: &Rotation, now: SystemTime) -> String {
    if rotation.agents.is_empty() {
        return "no agent has a certificate\n".to_owned();
    }
    let rows = rotation.agents.iter().map(|(name, lack)| cells(name, lack, now));
    format!("\n{}", table::text(["AGENT", "STREAM", "LACKS"], rows))
}

/// The same for programs: the rotation that is going on, and those that are over.
pub fn json(state: &State) -> Value {
    json!({ "rotation": state.rotation.as_ref().map(rotation_json), "history": state.history })
}

/// One rotation for programs.
pub fn rotation_json(rotation: &Rotation) -> Value {
    let agents: Vec<Value> = rotation.agents.iter().map(|(name, lack)| agent(name, lack)).collect();
    json!({
        "kind": rotation.kind.as_str(),
        "step": rotation.step.as_str(),
        "paused": rotation.paused,
        "started_at": rfc3339(rotation.started_at),
        "step_since": rfc3339(rotation.step_since),
        "carried_at": rotation.carried_at.map(rfc3339),
        "from": { "name": rotation.from_name, "spki_sha256": hex(&rotation.from) },
        "to": rotation.to.map(|to| json!({ "name": rotation.to_name, "spki_sha256": hex(&to) })),
        "agents": agents,
    })
}

fn agent(name: &str, lack: &Lack) -> Value {
    json!({
        "agent": name,
        "connected": lack.connected,
        "last_seen": lack.last_seen.map(rfc3339),
        "proven": lack.proven,
        "skipped": lack.skipped,
        "lacks": lack.lacks,
    })
}

fn past(state: &State, now: SystemTime) -> String {
    let Some(last) = state.history.last() else {
        return "no rotation is going on, and there was none yet\n".to_owned();
    };
    let skipped = match last.skipped.as_slice() {
        [] => String::new(),
        skipped => format!("left behind: {}\n", skipped.join(", ")),
    };
    format!(
        "no rotation is going on; the last one ({}) ended {} ({} ago): {}\n{skipped}",
        last.kind.as_str(),
        utc(last.ended_at),
        ago(last.ended_at, now),
        last.result.as_str()
    )
}

fn subject(rotation: &Rotation) -> String {
    match rotation.kind {
        Kind::Ca | Kind::Emergency => format!(
            "the authority ({} → {})",
            rotation.from_name,
            rotation.to_name.as_deref().unwrap_or("a new one")
        ),
        Kind::All => "all certificates".to_owned(),
        Kind::Leaf => format!("the certificates of {}", rotation.targets.join(", ")),
    }
}

fn cells(name: &str, lack: &Lack, now: SystemTime) -> [String; 3] {
    let stream = match lack.last_seen {
        _ if lack.connected => "connected".to_owned(),
        Some(at) => format!("last seen {} ago", ago(at, now)),
        None => "never seen".to_owned(),
    };
    let lacks = match lack.lacks.as_slice() {
        [] if lack.proven => "nothing (seen with a new certificate)".to_owned(),
        [] => "nothing".to_owned(),
        lacks => lacks.join("; "),
    };
    let skipped = if lack.skipped { "; is left behind" } else { "" };
    [name.to_owned(), stream, lacks + skipped]
}
