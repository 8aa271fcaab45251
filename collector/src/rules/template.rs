//! Expands Go templates with Prometheus' functions, for the labels and annotations of alerts.
//!
//! Expanding does no I/O: a template that asks for the result of a query which is not known yet stops, the caller
//! evaluates the query and expands again.

mod function;
mod humanize;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use gotmpl::parse::{CommandNode, Expr, ListNode, Node, Parser, PipeNode};
use gotmpl::{FuncMap, MissingKey, Template, TemplateError, Value};
use tributary_model::label::Labels;
use tributary_model::sample::Timestamp;

/// Queries that one template may make.
pub const MAX_QUERIES: usize = 20;

/// Most iterations of all `range` together.
const MAX_ITERATIONS: u64 = 100_000;

/// Longest result, in bytes; the rest is cut.
const MAX_RESULT_BYTES: usize = 64 << 10;

/// Names what the caller knows, before the text.
const PROLOGUE: &str = "{{$labels := .Labels}}{{$externalLabels := .ExternalLabels}}{{$externalURL := .ExternalURL}}{{$value := .Value}}";

/// The name of the main text among its own `define`s.
const MAIN: &str = "__main";

/// Writes what an action yields.
const SHOW: &str = "__show";

/// Functions that the language itself has.
const BUILTIN: [&str; 19] = [
    "and", "call", "eq", "ge", "gt", "html", "index", "js", "le", "len", "lt", "ne", "not", "or",
    "print", "printf", "println", "slice", "urlquery",
];

/// What a template can refer to.
#[derive(Debug, Clone)]
pub struct Data<'a> {
    /// The labels of the series.
    pub labels: &'a Labels,
    /// Its value.
    pub value: f64,
    /// When the rule is evaluated.
    pub now: Timestamp,
    /// The collector's address.
    pub external_url: &'a str,
    /// What `$externalLabels` has.
    pub external_labels: &'a Labels,
}

/// Results of queries by their text; an error is the query's.
pub type Results = BTreeMap<String, Result<Vec<(Labels, f64)>, String>>;

/// What became of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expansion {
    /// The text.
    Done(String),
    /// The result of this query is needed first.
    Query(String),
    /// The template has a fault.
    Failed(String),
}

/// Expands a template with the results known so far.
pub fn expand(text: &str, data: &Data<'_>, results: &Results) -> Expansion {
    if !text.contains("{{") {
        return Expansion::Done(text.to_owned());
    }
    let wanted = Arc::new(Mutex::new(None));
    match execute(text, data, results, &wanted) {
        Ok(mut text) => {
            let mut cut = text.len().min(MAX_RESULT_BYTES);
            while !text.is_char_boundary(cut) {
                cut -= 1;
            }
            text.truncate(cut);
            Expansion::Done(text)
        }
        Err(e) => match wanted.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(query) => Expansion::Query(query),
            None => Expansion::Failed(e.to_string()),
        },
    }
}

/// Whether a template can be read, and all functions exist.
pub fn check(text: &str) -> Result<(), String> {
    let parsed = parse(text).map_err(|e| e.to_string())?;
    let known = function::map(&Arc::default(), &Results::new(), &function::Fixed::default());
    let exists = |name: &&str| !known.contains_key(*name) && !BUILTIN.contains(name);
    let missing = parsed.names.functions.iter().map(String::as_str).find(exists);
    missing.map_or(Ok(()), |name| Err(format!("function {name:?} not defined")))
}

/// A link to the expression browser; `tab` 0 is the graph, 1 the table.
pub fn graph_link(expr: &str, tab: u8) -> String {
    format!("/graph?g0.expr={}&g0.tab={tab}", gotmpl::url_encode(expr))
}

/// The query that the template asked for and that has no result yet.
type Wanted = Arc<Mutex<Option<String>>>;

fn execute(
    text: &str,
    data: &Data<'_>,
    results: &Results,
    wanted: &Wanted,
) -> Result<String, TemplateError> {
    let parsed = parse(text)?;
    // A label that is not there is the empty text.
    let map = |labels: &Labels| -> Value {
        let missing = parsed.names.labels.iter();
        let mut map: BTreeMap<Arc<str>, Value> =
            missing.map(|name| (Arc::from(name.as_str()), Value::String("".into()))).collect();
        map.extend(labels.iter().map(|l| (l.name.clone(), Value::String(l.value.clone()))));
        Value::Map(Arc::new(map))
    };
    let root = BTreeMap::from([
        (Arc::from("Labels"), map(data.labels)),
        (Arc::from("ExternalLabels"), map(data.external_labels)),
        (Arc::from("ExternalURL"), Value::String(data.external_url.into())),
        (Arc::from("Value"), Value::Float(data.value)),
    ]);
    let fixed = function::Fixed { now: data.now, external_url: data.external_url.to_owned() };
    let mut functions: FuncMap = function::map(wanted, results, &fixed);
    functions.insert(SHOW.into(), Arc::new(|args: &[Value]| Ok(function::show(args))));
    let mut template = Template::new("alert")
        .missing_key(MissingKey::ZeroValue)
        .max_range_iters(MAX_ITERATIONS)
        .funcs(functions)
        .parse(&format!("{{{{template \"{MAIN}\" .}}}}"))?
        .add_parse_tree(MAIN, parsed.main);
    for (name, tree) in parsed.defines {
        template = template.add_parse_tree(&name, tree);
    }
    template.execute_to_string(&Value::Map(Arc::new(root)))
}

struct Parsed {
    main: ListNode,
    defines: Vec<(String, ListNode)>,
    names: Names,
}

/// What a template mentions.
#[derive(Default)]
struct Names {
    labels: BTreeSet<String>,
    functions: BTreeSet<String>,
}

/// Reads a template; every action passes its value through [`SHOW`], which writes it as Go does.
fn parse(text: &str) -> Result<Parsed, TemplateError> {
    let whole = format!("{PROLOGUE}{text}");
    let (mut main, defines) = Parser::new(&whole, "{{", "}}")?.parse()?;
    let mut names = Names::default();
    names.list(&mut main);
    let mut trees = Vec::new();
    for mut define in defines {
        names.list(&mut define.body);
        trees.push((define.name.to_string(), define.body));
    }
    Ok(Parsed { main, defines: trees, names })
}

impl Names {
    fn list(&mut self, list: &mut ListNode) {
        for node in &mut list.nodes {
            self.node(node);
        }
    }

    fn node(&mut self, node: &mut Node) {
        match node {
            Node::List(list) => self.list(list),
            Node::Action(action) => {
                self.pipe(&action.pipe);
                if action.pipe.decl.is_empty() {
                    let show = Expr::Identifier(action.pos, SHOW.into());
                    action.pipe.commands.push(CommandNode { pos: action.pos, args: vec![show] });
                }
            }
            Node::If(branch) | Node::Range(branch) | Node::With(branch) => {
                self.pipe(&branch.pipe);
                self.list(&mut branch.body);
                if let Some(body) = &mut branch.else_body {
                    self.list(body);
                }
            }
            Node::Template(template) => {
                if let Some(pipe) = &template.pipe {
                    self.pipe(pipe);
                }
            }
            Node::Define(define) => self.list(&mut define.body),
            Node::Text(_) | Node::Break(_) | Node::Continue(_) => {}
        }
    }

    fn pipe(&mut self, pipe: &PipeNode) {
        for expr in pipe.commands.iter().flat_map(|command| &command.args) {
            self.expr(expr);
        }
    }

    fn expr(&mut self, expr: &Expr) {
        match expr {
            Expr::Variable(_, variable, chain) if variable.as_str() == "$labels" => {
                self.labels.extend(chain.first().map(ToString::to_string));
            }
            Expr::Field(_, chain) | Expr::Variable(_, _, chain) => {
                let mut words = chain.iter().skip_while(|word| word.as_str() != "Labels").skip(1);
                self.labels.extend(words.next().map(ToString::to_string));
            }
            Expr::Identifier(_, name) => {
                self.functions.insert(name.to_string());
            }
            Expr::Pipe(_, pipe) => self.pipe(pipe),
            Expr::Chain(_, inner, _) => self.expr(inner),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(text: &str, value: f64) -> String {
        let labels =
            Labels::from_pairs([("instance", "a.example.org:9100"), ("job", "node")]).unwrap();
        let data = Data {
            labels: &labels,
            value,
            now: Timestamp::from_millis(1_700_000_000_500),
            external_url: "http://t.example.org/x",
            external_labels: &Labels::from_pairs([("region", "eu")]).unwrap(),
        };
        let series = |name: &str, value| (Labels::from_pairs([("instance", name)]).unwrap(), value);
        let results = Results::from([
            ("up".to_owned(), Ok(vec![series("b", 1.0), series("a", 2.5)])),
            ("none".to_owned(), Ok(vec![])),
            ("bad".to_owned(), Err("no such luck".to_owned())),
        ]);
        match expand(text, &data, &results) {
            Expansion::Done(text) => text,
            Expansion::Query(query) => format!("query: {query}"),
            Expansion::Failed(why) => format!("failed: {why}"),
        }
    }

    #[test]
    fn expands_as_prometheus_does() {
        for (text, value, expanded) in [
            ("plain", 1.0, "plain"),
            ("{{ $labels.job }}/{{ .Labels.instance }}", 1.0, "node/a.example.org:9100"),
            ("{{ $labels.none }}|{{ index $labels \"none\" }}|{{ .Labels.other }}", 1.0, "||"),
            ("{{ $value }}", 1.5, "1.5"),
            ("{{ $value }}", 1_000_000.0, "1e+06"),
            ("{{ .Value }} {{ $value }}", 12_345_678.9, "1.23456789e+07 1.23456789e+07"),
            ("{{ $value }}", f64::INFINITY, "+Inf"),
            ("{{ $value }}", 0.000_012, "1.2e-05"),
            ("{{ printf \"%.2f\" $value }}", 2.0, "2.00"),
            ("{{ $value | printf \"%.0f%%\" }}", 12.3, "12%"),
            ("{{ if gt $value 5.0 }}big{{ else }}small{{ end }}", 7.0, "big"),
            ("{{ if eq $labels.job \"node\" }}y{{ end }}", 7.0, "y"),
            (
                "{{ range $k, $v := $labels }}{{ $k }}={{ $v }} {{ end }}",
                0.0,
                "instance=a.example.org:9100 job=node ",
            ),
            ("{{ query \"up\" | first | value }}", 0.0, "1"),
            (
                "{{ range query \"up\" | sortByLabel \"instance\" }}{{ .Labels.instance }}:{{ .Value }} {{ end }}",
                0.0,
                "a:2.5 b:1 ",
            ),
            ("{{ with query \"none\" }}yes{{ else }}no{{ end }}", 0.0, "no"),
            ("{{ query \"up\" | first | label \"instance\" }}", 0.0, "b"),
            ("{{ query \"down\" }}", 0.0, "query: down"),
            ("{{ define \"x\" }}<{{ . }}>{{ end }}{{ template \"x\" $value }}", 2e6, "<2e+06>"),
            (
                "{{ template \"y\" (args 1 \"b\") }}{{ define \"y\" }}{{ .arg0 }}{{ .arg1 }}{{ end }}",
                0.0,
                "1b",
            ),
            ("{{ $labels.instance | stripPort | toUpper }}", 0.0, "A.EXAMPLE.ORG"),
            ("{{ stripDomain $labels.instance }}", 0.0, "a:9100"),
            ("{{ \"10.0.0.1:80\" | stripDomain }}", 0.0, "10.0.0.1:80"),
            ("{{ reReplaceAll \"(.*)\\\\.example.*\" \"$1!\" $labels.instance }}", 0.0, "a!"),
            ("{{ match \"nod.\" $labels.job }}", 0.0, "true"),
            ("{{ title \"hello wORLD\" }}", 0.0, "Hello WORLD"),
            ("{{ humanize $value }} {{ humanize1024 $value }}", 1_234_567.0, "1.235M 1.177Mi"),
            ("{{ humanize $value }}", 0.001_234, "1.234m"),
            ("{{ humanize \"0\" }}", 0.0, "0"),
            ("{{ humanizePercentage $value }}", 0.123_456, "12.35%"),
            ("{{ humanizeDuration $value }}", 90_061.0, "1d 1h 1m 1s"),
            ("{{ humanizeDuration 59.9 }} {{ humanizeDuration $value }}", 0.1, "59.9s 100ms"),
            ("{{ humanizeTimestamp 1435065584.128 }}", 0.0, "2015-06-23 13:19:44.128 +0000 UTC"),
            ("{{ parseDuration \"1h30m\" }}", 0.0, "5400"),
            (
                "{{ now }} {{ externalURL }} {{ pathPrefix }}",
                0.0,
                "1.7000000005e+09 http://t.example.org/x /x",
            ),
            (
                "{{ graphLink \"a b\" }} {{ tableLink \"up\" }}",
                0.0,
                "/graph?g0.expr=a+b&g0.tab=0 /graph?g0.expr=up&g0.tab=1",
            ),
            ("{{ urlQueryEscape \"a&b c\" }} {{ safeHtml \"<b>\" }}", 0.0, "a%26b+c <b>"),
            ("a {{- /* gone */ -}} b", 0.0, "ab"),
        ] {
            assert_eq!(done(text, value), expanded, "{text}");
        }
    }

    #[test]
    fn faults_are_told() {
        for (text, why) in [
            ("{{ $value ", "unclosed action"),
            ("{{ nothing }}", "nothing"),
            ("{{ query \"bad\" }}", "no such luck"),
            ("{{ query \"none\" | first }}", "first() called on vector with no elements"),
            ("{{ humanize \"x\" }}", "x"),
            ("{{ reReplaceAll \"(\" \"\" \"\" }}", "missing closing )"),
            ("{{ template \"nowhere\" }}", "nowhere"),
        ] {
            let failed = done(text, 0.0);
            assert!(failed.starts_with("failed: ") && failed.contains(why), "{text}: {failed}");
        }
        assert_eq!(check("{{ nothing }}"), Err("function \"nothing\" not defined".to_owned()));
        assert!(check("{{ if }}").is_err());
        assert_eq!(check("{{ $labels.x | toUpper | printf \"%s\" }}"), Ok(()));
    }
}
