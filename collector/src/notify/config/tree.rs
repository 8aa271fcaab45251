//! Reads the route tree, filling in what each route inherits.

use std::collections::BTreeSet;

use serde_saphyr::Spanned;
use tributary_model::diagnostic::Diagnostic;
use tributary_model::matcher::{MatchOp, Matcher};

use super::super::route::{GroupBy, Route, Timing};
use super::{Reader, matchers, raw};

/// How deep routes may nest.
const MAX_ROUTE_DEPTH: usize = 32;

/// What a route takes from the one above it.
struct Above<'a> {
    receiver: &'a str,
    group_by: &'a GroupBy,
    timing: Timing,
    key: &'a str,
    depth: usize,
}

impl Reader<'_> {
    pub(super) fn root(
        &self,
        raw: &Spanned<raw::Route>,
        receivers: &BTreeSet<String>,
    ) -> Result<Route, Box<Diagnostic>> {
        let route = &raw.value;
        if route.receiver.is_none() {
            return Err(self.fault(raw, "the root route needs a receiver", None));
        }
        if !(route.matchers.is_empty() && route.equal.is_empty() && route.regex.is_empty()) {
            let help = "the root route takes every alert: put the matchers on a route below it";
            return Err(self.fault(raw, "the root route must not have matchers", Some(help)));
        }
        let above = Above {
            receiver: "",
            group_by: &GroupBy::Labels(BTreeSet::new()),
            timing: Timing::default(),
            key: "",
            depth: 0,
        };
        self.route(raw, &above, receivers)
    }

    fn route(
        &self,
        spanned: &Spanned<raw::Route>,
        above: &Above<'_>,
        receivers: &BTreeSet<String>,
    ) -> Result<Route, Box<Diagnostic>> {
        let raw = &spanned.value;
        if above.depth >= MAX_ROUTE_DEPTH {
            let what = format!("routes are nested deeper than {MAX_ROUTE_DEPTH} levels");
            return Err(self.fault(spanned, what, None));
        }
        let receiver = match &raw.receiver {
            Some(name) if !receivers.contains(&name.value) => {
                let what = format!("receiver \"{}\" is not defined", name.value.escape_debug());
                let help = format!("defined are: {}", join(receivers));
                return Err(self.fault(name, what, Some(&help)));
            }
            Some(name) => name.value.as_str(),
            None => above.receiver,
        };
        let matchers = self.matchers(raw)?;
        let list: Vec<String> = matchers.iter().map(ToString::to_string).collect();
        let list = format!("{{{}}}", list.join(","));
        let key = if above.key.is_empty() { list } else { format!("{}/{list}", above.key) };
        let group_by = match &raw.group_by {
            Some(names) => self.group_by(names)?,
            None => above.group_by.clone(),
        };
        let timing = self.timing(raw, above.timing)?;
        let below =
            Above { receiver, group_by: &group_by, timing, key: &key, depth: above.depth + 1 };
        let routes = raw.routes.iter().map(|r| self.route(r, &below, receivers));
        let routes = routes.collect::<Result<Vec<_>, _>>()?;
        Ok(Route {
            receiver: receiver.to_owned(),
            matchers,
            goes_on: raw.goes_on,
            routes,
            timing,
            group_by,
            key,
        })
    }

    fn timing(&self, raw: &raw::Route, above: Timing) -> Result<Timing, Box<Diagnostic>> {
        let or = |own: &Option<Spanned<String>>, above| match own {
            Some(text) => self.duration(text),
            None => Ok(above),
        };
        let timing = Timing {
            group_wait: or(&raw.group_wait, above.group_wait)?,
            group_interval: or(&raw.group_interval, above.group_interval)?,
            repeat_interval: or(&raw.repeat_interval, above.repeat_interval)?,
        };
        for (own, value, name) in [
            (&raw.group_interval, timing.group_interval, "group_interval"),
            (&raw.repeat_interval, timing.repeat_interval, "repeat_interval"),
        ] {
            if let (Some(text), true) = (own, value.is_zero()) {
                return Err(self.fault(text, format!("{name} must not be zero"), None));
            }
        }
        Ok(timing)
    }

    fn group_by(&self, names: &[Spanned<String>]) -> Result<GroupBy, Box<Diagnostic>> {
        if let [only] = names
            && only.value == "..."
        {
            return Ok(GroupBy::Everything);
        }
        let mut labels = BTreeSet::new();
        for name in names {
            if name.value == "..." {
                let help = "'...' means every label: write it alone or not at all";
                return Err(self.fault(name, "'...' stands beside other labels", Some(help)));
            }
            if name.value.is_empty() {
                return Err(self.fault(name, "a label name must not be empty", None));
            }
            if !labels.insert(name.value.clone()) {
                let what = format!("label \"{}\" is given twice", name.value.escape_debug());
                return Err(self.fault(name, what, None));
            }
        }
        Ok(GroupBy::Labels(labels))
    }

    fn matchers(&self, raw: &raw::Route) -> Result<Vec<Matcher>, Box<Diagnostic>> {
        let mut out: Vec<Matcher> =
            raw.equal.iter().map(|(name, value)| Matcher::equal(name, value)).collect();
        for (name, value) in &raw.regex {
            let matcher = Matcher::new(name, MatchOp::Match, &value.value)
                .map_err(|e| self.fault(value, e.to_string(), None))?;
            out.push(matcher);
        }
        for text in &raw.matchers {
            let help = "write label=\"value\", with =, !=, =~ or !~";
            let more = matchers::parse(&text.value).map_err(|e| self.fault(text, e, Some(help)))?;
            out.extend(more);
        }
        out.sort_by(|a, b| (a.name(), a.op(), a.value()).cmp(&(b.name(), b.op(), b.value())));
        Ok(out)
    }
}

fn join(names: &BTreeSet<String>) -> String {
    names.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}
