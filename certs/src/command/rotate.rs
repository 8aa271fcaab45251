//! `rotate`: writes the plan, and follows it while a collector carries it out.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, anyhow};
use tributary_certs::authority::LEAF_LIFETIME;
use tributary_certs::bundle::{self, COLLECTOR, Folder, LEAF_CERT};
use tributary_certs::certificate::{hex, utc};
use tributary_certs::rotate::{
    self, Begun, Fleet, Kind, Outcome, Past, Policy, Rotation, Step, Wish,
};
use tributary_certs::state::State;
use tributary_certs::succession;
use tributary_certs::token::{self, DEFAULT_TTL, Grant, TokenError};
use zeroize::Zeroizing;

use super::args::{Output, RotateArgs};
use super::fault::CHECK_FAILED;

/// How often the state is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// A collector that has not worked on the plan for this long is not there, or not on this folder.
const COLLECTOR_SILENT: Duration = Duration::from_secs(10);
/// Agents that lack something in preflight have this long: a stream may just be coming back.
const PREFLIGHT_PATIENCE: Duration = Duration::from_secs(5);
/// The same in later steps. Then the command ends; the rotation goes on when they are back.
const PATIENCE: Duration = Duration::from_secs(60);
const INGEST_PORT: u16 = 9391;

/// `tributary-certs rotate`
pub fn run(out: &mut dyn Write, args: &RotateArgs) -> anyhow::Result<ExitCode> {
    let dir = &args.folder.dir;
    let now = SystemTime::now();
    if args.status {
        return status(out, dir, args.output, now);
    }
    if args.withdraw {
        let there_was = rotate::withdraw(dir, now)?;
        let text = if there_was { "taken back" } else { "no rotation is going on" };
        writeln!(out, "{text}")?;
        return Ok(ExitCode::SUCCESS);
    }
    let wish = wish(args)?;
    if args.dry_run {
        return dry_run(out, dir, &wish, args.output);
    }
    let begun = rotate::begin(dir, &wish, now)?;
    if wish.kind == Kind::Emergency {
        return emergency(out, dir, args.address.as_deref());
    }
    let started_at = State::read(dir)?.rotation.map_or(now, |rotation| rotation.started_at);
    let mut follow = Follow::new(out, dir, started_at, args);
    follow.say(match begun {
        Begun::New => "the plan is written; interrupting this command does not stop it",
        Begun::Resumed => "the rotation goes on from where it stood",
    })?;
    follow.run()
}

fn status(
    out: &mut dyn Write,
    dir: &Path,
    output: Output,
    now: SystemTime,
) -> anyhow::Result<ExitCode> {
    let state = State::read(dir)?;
    match output {
        Output::Table => write!(out, "{}", rotate::table(&state, now))?,
        Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(&rotate::json(&state))?)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Without a kind, the one that is going on is meant.
fn wish(args: &RotateArgs) -> anyhow::Result<Wish> {
    let dir = &args.folder.dir;
    let running = State::read(dir)?.rotation;
    let (kind, targets) = match (args, running) {
        (RotateArgs { ca: true, .. }, _) => (Kind::Ca, Vec::new()),
        (RotateArgs { all: true, .. }, _) => (Kind::All, Vec::new()),
        (RotateArgs { emergency: true, .. }, _) => (Kind::Emergency, Vec::new()),
        (RotateArgs { leaf, .. }, _) if !leaf.is_empty() => (Kind::Leaf, leaf.clone()),
        (_, Some(running)) => (running.kind, running.targets),
        (_, None) => {
            return Err(anyhow!(
                "no rotation is going on in {}: say what to rotate with --ca, --leaf NAME, --all or --emergency",
                dir.display()
            ));
        }
    };
    let next = args.from_ca.as_ref().map(|(cert, key)| succession::authority_in(dir, (cert, key)));
    Ok(Wish {
        kind,
        targets,
        wait: args.wait,
        skip: args.skip.clone(),
        until: args.until,
        grace: args.grace,
        next: next.transpose()?,
    })
}

fn dry_run(
    out: &mut dyn Write,
    dir: &Path,
    wish: &Wish,
    output: Output,
) -> anyhow::Result<ExitCode> {
    let now = SystemTime::now();
    let plan = rotate::preview(dir, wish, now)?;
    match output {
        Output::Table => {
            write!(out, "{}", rotate::plan(&plan, now))?;
            writeln!(
                out,
                "nothing was changed; agents are shown as a collector last noted them down"
            )?;
        }
        Output::Json => {
            writeln!(out, "{}", serde_json::to_string_pretty(&rotate::rotation_json(&plan))?)?;
        }
    }
    let ready = plan.laggards().next().is_none();
    Ok(if ready { ExitCode::SUCCESS } else { ExitCode::from(CHECK_FAILED) })
}

/// Needs no collector: nobody is waited for. One that runs sees the folder change and ends all streams.
fn emergency(out: &mut dyn Write, dir: &Path, address: Option<&str>) -> anyhow::Result<ExitCode> {
    let policy = Policy { leaf_lifetime: LEAF_LIFETIME };
    let fleet = Fleet { agents: Vec::new(), collector_authority: [0; 32] };
    while State::read(dir)?.rotation.is_some_and(|rotation| rotation.kind == Kind::Emergency) {
        for line in rotate::advance(dir, &fleet, &policy, SystemTime::now())?.note {
            writeln!(out, "{line}")?;
        }
    }
    let folder = Folder::open(dir)?;
    let authority = folder.authority().certificate();
    writeln!(out, "\n\"{}\" is the only authority now; every stream ends", authority.subject)?;
    let address =
        address.map_or_else(|| collector_address(dir), |address| Ok(address.to_owned()))?;
    let now = SystemTime::now();
    let tokens = tokens_for_all(dir, now)?;
    if !tokens.is_empty() {
        writeln!(
            out,
            "\nevery agent must enrol again; run beside it, before {}:",
            utc(now + DEFAULT_TTL)
        )?;
    }
    for (name, token) in &tokens {
        writeln!(
            out,
            "\n# {name}\ntributary-agent join https://{address} --token {} --ca-hash sha256:{} --force",
            token.as_str(),
            hex(&authority.spki_sha256)
        )?;
    }
    writeln!(
        out,
        "\nlater, or where the collector dials the agent: tributary-collector clusters add CLUSTER --replace"
    )?;
    Ok(ExitCode::SUCCESS)
}

/// One for each agent that had a certificate, by its name.
fn tokens_for_all(
    dir: &Path,
    now: SystemTime,
) -> Result<BTreeMap<String, Zeroizing<String>>, TokenError> {
    State::change(dir, |state| {
        let names: Vec<String> = state.agents(now).map(str::to_owned).collect();
        let mut tokens = BTreeMap::new();
        for name in names {
            let Some((cluster, instance)) = name.split_once('/') else { continue };
            let grant = Grant {
                cluster: cluster.to_owned(),
                instance: Some(instance.to_owned()),
                ttl: DEFAULT_TTL,
                replace: true,
            };
            let token = token::create(state, &grant, now)?;
            tokens.insert(name, token);
        }
        Ok(tokens)
    })
}

fn collector_address(dir: &Path) -> anyhow::Result<String> {
    let own = bundle::leaf(&dir.join(COLLECTOR).join(LEAF_CERT))?;
    let host =
        own.hosts.first().context("the collector's certificate names no host: give --address")?;
    let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    Ok(format!("{host}:{INGEST_PORT}"))
}

/// Watches a plan until it is done, stopped, or stands still.
struct Follow<'a> {
    out: &'a mut dyn Write,
    dir: &'a Path,
    started_at: SystemTime,
    quiet: bool,
    /// When something last changed in the plan, and what it was then.
    changed: (Instant, Option<(Step, Vec<String>)>),
    /// When a collector was last seen at work.
    carried: (Instant, Option<SystemTime>),
}

impl<'a> Follow<'a> {
    fn new(
        out: &'a mut dyn Write,
        dir: &'a Path,
        started_at: SystemTime,
        args: &RotateArgs,
    ) -> Self {
        let now = Instant::now();
        let quiet = args.output == Output::Json;
        Self { out, dir, started_at, quiet, changed: (now, None), carried: (now, None) }
    }

    fn run(&mut self) -> anyhow::Result<ExitCode> {
        let code = loop {
            let state = State::read(self.dir)?;
            let ended = match &state.rotation {
                Some(rotation) if rotation.started_at == self.started_at => self.look(rotation)?,
                _ => self.over(&state)?,
            };
            if let Some(code) = ended {
                break code;
            }
            thread::sleep(LOOK);
        };
        if self.quiet {
            let report = rotate::json(&State::read(self.dir)?);
            writeln!(self.out, "{}", serde_json::to_string_pretty(&report)?)?;
        }
        Ok(ExitCode::from(code))
    }

    /// One look at the plan; an exit code when there is nothing more to wait for.
    fn look(&mut self, rotation: &Rotation) -> anyhow::Result<Option<u8>> {
        self.tell(rotation)?;
        if rotation.carried_at != self.carried.1 {
            self.carried = (Instant::now(), rotation.carried_at);
        }
        if rotation.paused {
            self.say(&format!(
                "stopped before \"{}\", as asked; go on with: tributary-certs rotate --dir {}",
                rotation.step.as_str(),
                self.dir.display()
            ))?;
            return Ok(Some(0));
        }
        if self.carried.0.elapsed() >= COLLECTOR_SILENT {
            return self.no_collector();
        }
        if rotation.wait || rotation.carried_at.is_none() || rotation.laggards().next().is_none() {
            return Ok(None);
        }
        let patience = if rotation.step == Step::Preflight { PREFLIGHT_PATIENCE } else { PATIENCE };
        if self.changed.0.elapsed() < patience {
            return Ok(None);
        }
        self.give_up(rotation).map(Some)
    }

    /// Every step, and everybody who is waited for, is told once.
    fn tell(&mut self, rotation: &Rotation) -> anyhow::Result<()> {
        let behind: Vec<String> = rotation
            .laggards()
            .map(|(name, lack)| format!("{name}: {}", lack.lacks.join("; ")))
            .collect();
        let seen = (rotation.step, behind);
        if self.changed.1.as_ref() == Some(&seen) {
            return Ok(());
        }
        let (step, behind) = &seen;
        if self.changed.1.as_ref().is_none_or(|(before, _)| before != step) && !rotation.paused {
            self.say(&format!("{:<10} {}", step.as_str(), rotation.kind.explain(*step)))?;
        }
        for line in behind {
            self.say(&format!("           waits for {line}"))?;
        }
        self.changed = (Instant::now(), Some(seen));
        Ok(())
    }

    fn over(&mut self, state: &State) -> anyhow::Result<Option<u8>> {
        let past = state.history.iter().rev().find(|past| past.started_at == self.started_at);
        let Some(Past { result, skipped, started_at, ended_at, .. }) = past else {
            return Err(anyhow!("the plan has vanished from {}", self.dir.display()));
        };
        let took = ended_at.duration_since(*started_at).unwrap_or_default().as_secs();
        match result {
            Outcome::Done => {
                self.say(&format!("done after {took} s"))?;
                for name in skipped {
                    let cluster = name.split('/').next().unwrap_or(name);
                    self.say(&format!(
                        "left behind: {name}; when it is back: tributary-collector clusters add {cluster} --replace"
                    ))?;
                }
                Ok(Some(0))
            }
            Outcome::Withdrawn => {
                self.complain("the rotation was taken back")?;
                Ok(Some(CHECK_FAILED))
            }
            Outcome::Superseded => {
                self.complain("an emergency rotation has taken its place")?;
                Ok(Some(CHECK_FAILED))
            }
        }
    }

    fn no_collector(&mut self) -> anyhow::Result<Option<u8>> {
        self.complain(&format!(
            "error: no collector has worked on the plan for {} s\n   = help: is one running with pki: {{ dir: … }} on \
             {}? The plan stays: start it and run \"tributary-certs rotate\" again, or take it back with --withdraw",
            COLLECTOR_SILENT.as_secs(),
            self.dir.display()
        ))?;
        Ok(Some(CHECK_FAILED))
    }

    /// In preflight nothing has happened yet, so the plan is taken back; later it stays.
    fn give_up(&mut self, rotation: &Rotation) -> anyhow::Result<u8> {
        let behind: Vec<String> = rotation
            .laggards()
            .map(|(name, lack)| format!("  {name}: {}", lack.lacks.join("; ")))
            .collect();
        let behind = behind.join("\n");
        if rotation.step == Step::Preflight {
            rotate::withdraw(self.dir, SystemTime::now())?;
            self.complain(&format!(
                "error: not everybody is ready, so nothing was begun:\n{behind}\n   = help: bring them back and run this \
                 again; or wait for them with --wait, or leave one behind with --skip NAME"
            ))?;
        } else {
            self.complain(&format!(
                "error: step \"{}\" waits for:\n{behind}\n   = help: it goes on by itself when they are back (see \
                 rotate --status); or leave one behind with rotate --skip NAME",
                rotation.step.as_str()
            ))?;
        }
        Ok(CHECK_FAILED)
    }

    fn say(&mut self, text: &str) -> anyhow::Result<()> {
        if !self.quiet {
            writeln!(self.out, "{text}")?;
            self.out.flush()?;
        }
        Ok(())
    }

    fn complain(&mut self, text: &str) -> anyhow::Result<()> {
        self.out.flush()?;
        writeln!(io::stderr().lock(), "{text}")?;
        Ok(())
    }
}
