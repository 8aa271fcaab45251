//! How far a rotation is, as a table and as JSON.

use std::time::SystemTime;

use serde_json::{Value, json};

use super::{Lack, Rotation, Step};
use crate::certificate::{hex, rfc3339, utc};
use crate::state::State;
use crate::table::{self, ago};

/// What `tributary-certs rotate --status` prints.
pub fn table(state: &State, now: SystemTime) -> String {
    let Some(rotation) = &state.rotation else { return past(state, now) };
    let mut text = format!(
        "rotation of {}, begun {} ({} ago)\n",
        subject(rotation),
        utc(rotation.started_at),
        ago(rotation.started_at, now)
    );
    let steps = rotation.kind.steps();
    for step in steps.iter().filter(|step| **step != Step::Done) {
        let (mark, state) = match step.cmp(&rotation.step) {
            std::cmp::Ordering::Less => ('✓', String::new()),
            std::cmp::Ordering::Equal if rotation.paused => {
                ('‖', "  (stopped before it, as asked)".to_owned())
            }
            std::cmp::Ordering::Equal => {
                ('→', format!("  (for {})", ago(rotation.step_since, now)))
            }
            std::cmp::Ordering::Greater => (' ', String::new()),
        };
        text += &format!("  {mark} {:<10} {}{state}\n", step.as_str(), step.explain());
    }
    text += &match rotation.carried_at {
        Some(at) => format!("carried out by a collector, last {} ago\n", ago(at, now)),
        None => "no collector has looked at it yet\n".to_owned(),
    };
    if !rotation.agents.is_empty() {
        text.push('\n');
        let rows = rotation.agents.iter().map(|(name, lack)| cells(name, lack, rotation, now));
        text += &table::text(["AGENT", "STREAM", "STATE"], rows);
    }
    text
}

/// The same for programs.
pub fn json(state: &State) -> Value {
    let rotation = state.rotation.as_ref().map(|rotation| {
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
    });
    json!({ "rotation": rotation, "history": state.history })
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
    let mut text = format!(
        "no rotation is going on; the last one ({}) ended {} ({} ago): {}\n",
        last.kind.as_str(),
        utc(last.ended_at),
        ago(last.ended_at, now),
        last.result.as_str()
    );
    if !last.skipped.is_empty() {
        text += &format!("left behind: {}\n", last.skipped.join(", "));
    }
    text
}

fn subject(rotation: &Rotation) -> String {
    use super::Kind;
    match rotation.kind {
        Kind::Ca | Kind::Emergency => format!(
            "the authority ({} → {})",
            rotation.from_name,
            rotation.to_name.as_deref().unwrap_or("not made yet")
        ),
        Kind::All => "all certificates".to_owned(),
        Kind::Leaf => format!("the certificates of {}", rotation.targets.join(", ")),
    }
}

fn cells(name: &str, lack: &Lack, rotation: &Rotation, now: SystemTime) -> [String; 3] {
    let stream = match lack.last_seen {
        _ if lack.connected => "connected".to_owned(),
        Some(at) => format!("last seen {} ago", ago(at, now)),
        None => "never seen".to_owned(),
    };
    let lacks = lack.lacks.join("; ");
    let state = match (lack.skipped, lack.lacks.is_empty()) {
        (true, true) => "left behind".to_owned(),
        (true, false) => format!("left behind: {lacks}"),
        (false, false) => format!("LACKS: {lacks}"),
        (false, true) if lack.proven && rotation.step > Step::Activate => "ok, proven".to_owned(),
        (false, true) => "ok".to_owned(),
    };
    [name.to_owned(), stream, state]
}
