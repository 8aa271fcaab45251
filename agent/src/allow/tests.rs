//! What the allowlist lets through, and that its merges are exact over crashes.

use proptest::prelude::*;
use tributary_model::sample::stale_nan;
use tributary_model::series::MetricType;

use tributary_model::sample::is_stale;

use super::*;

fn labels(text: &str) -> Labels {
    let row = format!("{text} 0\n");
    let format = tributary_model::exposition::Format::Text;
    tributary_model::exposition::read(&row, format).unwrap().rows.remove(0).0
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(seconds * 1000)
}

fn allowlist(rules: &str) -> Allowlist {
    Allowlist::new(Rules::parse(rules, "a.yml").unwrap(), AllowMetrics::default())
}

/// A series with one sample: text, second, value.
type Row<'a> = (&'a str, i64, f64);

fn samples(rows: &[Row<'_>]) -> Vec<(Labels, Sample)> {
    rows.iter().map(|(text, s, value)| (labels(text), Sample::new(s * 1000, *value))).collect()
}

fn shown(kept: &Kept) -> Vec<String> {
    kept.samples
        .iter()
        .map(|(labels, sample)| {
            let value =
                if is_stale(sample.value) { "stale".into() } else { sample.value.to_string() };
            format!("{labels} {value} @{}", sample.at.as_millis() / 1000)
        })
        .collect()
}

/// Applies rows at a second of the wall clock, and tells what came out.
fn step(allowlist: &mut Allowlist, now: i64, rows: &[Row<'_>]) -> Vec<String> {
    shown(&allowlist.apply(samples(rows), vec![], vec![], at(now)))
}

#[test]
fn only_what_is_listed_leaves_and_only_with_listed_labels() {
    let mut list = allowlist("rules: [{match: up, labels: [job]}, {match: 'x{a!=\"b\"}'}]");
    let out = step(
        &mut list,
        1,
        &[
            ("up{job=\"j\",instance=\"secret\"}", 1, 1.0),
            ("down{job=\"j\"}", 1, 1.0),
            ("x{a=\"b\"}", 1, 1.0),
            ("x{a=\"c\",d=\"e\"}", 1, 2.0),
        ],
    );
    assert_eq!(out, ["up{job=\"j\"} 1 @1", "x{a=\"c\", d=\"e\"} 2 @1"]);
    assert_eq!(list.metrics.dropped.get_or_create(&reason(Dropped::not_listed)).get(), 2);
    assert_eq!(list.metrics.stripped.get(), 1);
}

#[test]
fn histograms_follow_the_rules_but_are_not_merged() {
    use tributary_model::histogram::{Histogram, Parts};
    let mut list = allowlist(
        "rules: [{match: h, labels: [job]}, {match: m, labels: [], merge: sum}, {match: k, max_series: 1}]",
    );
    let sample = |text: &str, second: i64, histogram: Histogram| {
        (labels(text), HistogramSample { at: at(second), histogram: histogram.into() })
    };
    let some = || Histogram::new(Parts { count: 2.0, ..Parts::default() }).unwrap();
    let rows = vec![
        sample("h{job=\"a\",pod=\"1\"}", 1, some()),
        sample("h{job=\"a\",pod=\"2\"}", 1, some()),
        sample("h{job=\"a\",pod=\"1\"}", 2, Histogram::stale()),
        sample("h{job=\"a\",pod=\"2\"}", 3, some()),
        sample("m{pod=\"1\"}", 1, some()),
        sample("other", 1, some()),
        sample("k{n=\"1\"}", 1, some()),
        sample("k{n=\"2\"}", 1, some()),
        sample("k{n=\"1\"}", -1, some()),
    ];
    let kept = list.apply(vec![], rows, vec![], at(3));
    let shown: Vec<_> = kept
        .histograms
        .iter()
        .map(|(labels, sample)| (labels.to_string(), sample.at, sample.histogram.is_stale()))
        .collect();
    let h = "h{job=\"a\"}".to_owned();
    let k = "k{n=\"1\"}".to_owned();
    let expected =
        [(h.clone(), at(1), false), (h.clone(), at(2), true), (h, at(3), false), (k, at(1), false)];
    assert_eq!(shown, expected);
    for (dropped, count) in [
        (Dropped::collision, 1),
        (Dropped::histogram_merge, 1),
        (Dropped::not_listed, 1),
        (Dropped::budget, 1),
        (Dropped::timestamp, 1),
    ] {
        assert_eq!(
            list.metrics.dropped.get_or_create(&reason(dropped)).get(),
            count,
            "{dropped:?}"
        );
    }
}

fn reason(reason: Dropped) -> metrics::Reason {
    metrics::reason(reason)
}

#[test]
fn the_first_series_owns_its_output_until_it_ends() {
    let mut list = allowlist("rules: [{match: up, labels: []}]");
    let (a, b) = ("up{pod=\"a\"}", "up{pod=\"b\"}");
    assert_eq!(step(&mut list, 1, &[(a, 1, 1.0), (b, 1, 2.0)]), ["up 1 @1"]);
    assert_eq!(step(&mut list, 2, &[(b, 2, 2.0), (a, 2, 3.0)]), ["up 3 @2"]);
    assert_eq!(step(&mut list, 3, &[(a, 3, stale_nan()), (b, 3, 2.0)]), ["up stale @3"]);
    assert_eq!(step(&mut list, 4, &[(b, 4, 4.0), (a, 4, 1.0)]), ["up 4 @4"]);
    // Silence passes the place on, too.
    assert!(step(&mut list, 5, &[(a, 303, 1.0)]).is_empty());
    assert_eq!(step(&mut list, 6, &[(a, 305, 1.0)]), ["up 1 @305"]);
}

#[test]
fn an_owner_outlives_a_restart() {
    let rules = "rules: [{match: up, labels: []}]";
    let (a, b) = ("up{pod=\"a\"}", "up{pod=\"b\"}");
    let mut list = allowlist(rules);
    step(&mut list, 1, &[(a, 1, 1.0), (b, 1, 2.0)]);
    let changes = list.changes().unwrap();
    let mut list = allowlist(rules);
    list.restore(&[], &[changes]).unwrap();
    assert_eq!(step(&mut list, 2, &[(b, 2, 2.0), (a, 2, 1.0)]), ["up 1 @2"]);
}

#[test]
fn a_budget_refuses_new_series_only() {
    let mut list = allowlist("rules: [{match: up, max_series: 2}]");
    let [a, b, c] = ["up{i=\"a\"}", "up{i=\"b\"}", "up{i=\"c\"}"];
    assert_eq!(step(&mut list, 1, &[(a, 1, 1.0), (b, 1, 1.0), (c, 1, 1.0)]).len(), 2);
    assert_eq!(step(&mut list, 2, &[(c, 2, 1.0), (b, 2, 1.0), (a, 2, 1.0)]).len(), 2);
    // An idle hour frees a place.
    step(&mut list, 4000, &[(b, 4000, 1.0)]);
    assert_eq!(step(&mut list, 4001, &[(c, 4001, 1.0)]), ["up{i=\"c\"} 1 @4001"]);
    assert!(step(&mut list, 4002, &[(a, 4002, 1.0)]).is_empty());
    assert_eq!(list.metrics.budget_hits.get(), 3);
}

#[test]
fn timestamps_outside_of_time_are_dropped() {
    let mut list = allowlist("rules: [{match: up}]");
    let odd = [i64::MIN, -1, 253_402_300_800_000, i64::MAX];
    let samples = odd.map(|millis| (labels("up"), Sample::new(millis, 1.0))).to_vec();
    assert!(list.apply(samples, vec![], vec![], at(1)).samples.is_empty());
}

#[test]
fn a_round_waits_for_all_members_and_is_put_out_once() {
    let mut list = allowlist("rules: [{match: x, labels: [], merge: sum}]");
    let (a, b) = ("x{i=\"a\"}", "x{i=\"b\"}");
    assert_eq!(step(&mut list, 1, &[(a, 1, 1.0), (b, 1, 2.0)]), ["x 3 @1"]);
    assert!(step(&mut list, 16, &[(a, 16, 5.0)]).is_empty());
    assert_eq!(list.oldest_pending(), Some(at(16)));
    // A repetition changes nothing; the other member completes the round.
    assert!(step(&mut list, 17, &[(a, 16, 5.0)]).is_empty());
    assert_eq!(step(&mut list, 18, &[(b, 16, 7.0)]), ["x 12 @16"]);
    // One member is late: the round settles without it, and the late sample only counts from then on.
    assert!(step(&mut list, 31, &[(a, 31, 6.0)]).is_empty());
    assert_eq!(shown(&list.tick(at(40))), Vec::<String>::new());
    assert_eq!(shown(&list.tick(at(41))), ["x 13 @31"]);
    assert!(step(&mut list, 42, &[(b, 31, 9.0)]).is_empty());
    assert_eq!(step(&mut list, 46, &[(a, 46, 6.0), (b, 46, 10.0)]), ["x 16 @46"]);
    assert_eq!(list.oldest_pending(), None);
}

#[test]
fn a_backlog_is_merged_round_by_round() {
    let mut list = allowlist("rules: [{match: x, labels: [], merge: sum}]");
    let (a, b) = ("x{i=\"a\"}", "x{i=\"b\"}");
    step(&mut list, 1, &[(a, 1, 1.0), (b, 1, 1.0)]);
    assert!(step(&mut list, 100, &[(a, 16, 2.0), (a, 31, 3.0), (a, 46, 4.0)]).is_empty());
    let out = step(&mut list, 101, &[(b, 16, 20.0), (b, 31, 30.0), (b, 46, 40.0)]);
    assert_eq!(out, ["x 22 @16", "x 33 @31", "x 44 @46"]);
}

#[test]
fn sums_of_counters_never_fall() {
    let mut list = allowlist("rules: [{match: x_total, labels: [], merge: sum}]");
    let (a, b) = ("x_total{i=\"a\"}", "x_total{i=\"b\"}");
    assert_eq!(step(&mut list, 1, &[(a, 1, 10.0), (b, 1, 5.0)]), ["x_total 15 @1"]);
    // A reset of one, the end of the other.
    assert_eq!(step(&mut list, 2, &[(a, 2, 3.0), (b, 2, 6.0)]), ["x_total 19 @2"]);
    assert_eq!(step(&mut list, 3, &[(a, 3, 4.0), (b, 3, stale_nan())]), ["x_total 20 @3"]);
    assert_eq!(step(&mut list, 4, &[(a, 4, 5.0)]), ["x_total 21 @4"]);
    // It comes back where it was.
    assert_eq!(step(&mut list, 5, &[(a, 5, 5.0), (b, 5, 8.0)]), ["x_total 23 @5"]);
    let ends = [(a, 6, stale_nan()), (b, 6, stale_nan())];
    assert_eq!(step(&mut list, 6, &ends), ["x_total stale @6"]);
    assert_eq!(step(&mut list, 7, &[(a, 7, 1.0)]), ["x_total 24 @7"]);
}

#[test]
fn gauges_are_merged_over_live_members() {
    for (merge, both, one) in [
        ("sum", "g 7 @1", "g 4 @2"),
        ("min", "g 3 @1", "g 4 @2"),
        ("max", "g 4 @1", "g 4 @2"),
        ("avg", "g 3.5 @1", "g 4 @2"),
        ("count", "g 2 @1", "g 1 @2"),
        ("last", "g 3 @1", "g 4 @2"),
    ] {
        let mut list = allowlist(&format!("rules: [{{match: g, labels: [], merge: {merge}}}]"));
        let (a, b) = ("g{i=\"a\"}", "g{i=\"b\"}");
        let first = step(&mut list, 1, &[(a, 0, 4.0), (b, 1, 3.0)]);
        assert_eq!(first, [both], "{merge}");
        let second = step(&mut list, 2, &[(b, 2, stale_nan()), (a, 2, 4.0)]);
        assert_eq!(second, [one], "{merge}");
    }
}

#[test]
fn a_declared_type_decides_how_sums_go() {
    let mut list = allowlist("rules: [{match: x_total, labels: [], merge: sum}]");
    let (a, b) = ("x_total{i=\"a\"}", "x_total{i=\"b\"}");
    let gauge =
        Metadata { metric: "x_total".into(), kind: MetricType::Gauge, ..Metadata::default() };
    let kept = list.apply(samples(&[(a, 1, 5.0), (b, 1, 5.0)]), vec![], vec![gauge.clone()], at(1));
    assert_eq!(kept.metadata, [gauge]);
    assert_eq!(step(&mut list, 2, &[(a, 2, 1.0), (b, 2, stale_nan())]), ["x_total 1 @2"]);
}

#[test]
fn new_rules_take_over_and_unlisted_merges_stay_inside() {
    let mut list = allowlist("rules: [{match: x, labels: [], merge: sum}]");
    let (a, b) = ("x{i=\"a\"}", "x{i=\"b\"}");
    step(&mut list, 1, &[(a, 1, 1.0), (b, 1, 1.0)]);
    step(&mut list, 2, &[(a, 2, 1.0)]);
    list.replace(Rules::parse("rules: [{match: up}]", "a.yml").unwrap());
    assert!(step(&mut list, 3, &[(a, 3, 1.0), (b, 3, 1.0)]).is_empty());
    assert!(shown(&list.tick(at(99))).is_empty() && shown(&list.finish(at(99))).is_empty());
    assert_eq!(list.oldest_pending(), None);
    list.replace(Rules::parse("rules: [{match: x, labels: [], merge: sum}]", "a.yml").unwrap());
    assert_eq!(step(&mut list, 4, &[(a, 4, 1.0), (b, 4, 1.0)]), ["x 2 @2", "x 2 @4"]);
}

#[test]
fn what_a_failed_disk_lost_comes_again() {
    let mut list = allowlist("rules: [{match: x, labels: [], merge: sum}]");
    let (a, b) = ("x{i=\"a\"}", "x{i=\"b\"}");
    let metadata = || vec![Metadata { metric: "x".into(), ..Metadata::default() }];
    step(&mut list, 1, &[(a, 1, 1.0), (b, 1, 1.0)]);
    let on_disk = list.snapshot();
    let rows = [(a, 2, 1.0), (b, 2, 2.0)];
    for _ in 0..2 {
        let kept = list.apply(samples(&rows), vec![], metadata(), at(2));
        assert_eq!((shown(&kept), kept.metadata.len()), (vec!["x 3 @2".to_owned()], 1));
        list.restore(&on_disk, &[]).unwrap();
    }
}

#[test]
fn state_holds_no_removed_label() {
    let mut list = allowlist("rules: [{match: x, labels: [k], merge: sum}]");
    step(&mut list, 1, &[("x{user=\"planted-secret\",k=\"open\"}", 1, 1.0)]);
    for bytes in [list.snapshot(), list.changes().unwrap()] {
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.contains("open") && !text.contains("secret") && !text.contains("user"));
    }
}

#[test]
fn damaged_state_is_refused() {
    let mut list =
        allowlist("rules: [{match: x, labels: [k], merge: sum}, {match: z, labels: []}]");
    step(&mut list, 1, &[("x{i=\"a\",k=\"b\"}", 1, 1.0), ("x{i=\"b\",k=\"b\"}", 1, 1.0)]);
    step(&mut list, 2, &[("x{i=\"a\",k=\"b\"}", 2, 1.0), ("z{i=\"a\"}", 1, 1.0)]);
    let snapshot = list.snapshot();
    for length in 1..snapshot.len() {
        assert!(list.restore(&snapshot[..length], &[]).is_err(), "{length}");
    }
    assert!(list.restore(&snapshot, &[]).is_ok());
    assert_eq!(list.restore(&[9], &[]), Err(StateError::Version(9)));
}

/// A request: samples of members at one time, and what happens to the agent around it.
#[derive(Debug, Clone)]
struct Request {
    rows: Vec<(usize, i64, f64)>,
    fate: Fate,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    /// Stored and acknowledged.
    Fine,
    /// The agent dies before anything of it is stored; it comes again.
    Lost,
    /// The agent dies after it is stored and before it is acknowledged; it comes again.
    Unanswered,
}

fn requests() -> impl Strategy<Value = Vec<Request>> {
    let fate =
        prop_oneof![4 => Just(Fate::Fine), 1 => Just(Fate::Lost), 1 => Just(Fate::Unanswered)];
    // Per scrape: an increase (or reset, or end) for each of four members, cut into requests by shard.
    let scrape =
        (proptest::array::uniform4(0_u8..12), 0_u8..16, proptest::collection::vec(fate, 4));
    proptest::collection::vec(scrape, 1..20).prop_map(|scrapes| {
        let mut values = [0.0_f64; 4];
        let mut requests = Vec::new();
        for (second, (moves, cuts, fates)) in (1..).zip(scrapes) {
            let mut shard = Vec::new();
            for member in 0..4 {
                let row = match moves[member] {
                    10 => f64::NAN,
                    11 => stale_nan(),
                    0 => {
                        values[member] = 1.0;
                        1.0
                    }
                    n => {
                        values[member] += f64::from(n);
                        values[member]
                    }
                };
                // A plain NaN stands for a member that misses this scrape.
                if is_stale(row) || !row.is_nan() {
                    shard.push((member, second * 15, row));
                }
                if cuts & (1 << member) != 0 || member == 3 {
                    requests
                        .push(Request { rows: std::mem::take(&mut shard), fate: fates[member] });
                }
            }
        }
        requests
    })
}

const RULE: &str = "rules: [{match: m_total, labels: [], merge: sum}]";

fn rows_of(request: &Request) -> Vec<(Labels, Sample)> {
    let series = |member| labels(&format!("m_total{{i=\"{member}\"}}"));
    let rows = request.rows.iter();
    rows.map(|(member, s, value)| (series(*member), Sample::new(s * 1000, *value))).collect()
}

/// Runs requests through an agent that dies as they say; returns what its disk got, without repetitions.
fn run(requests: &[Request], crashes: bool, time_passes: bool) -> Vec<(i64, f64)> {
    let mut list = allowlist(RULE);
    let (mut snapshot, mut changes) = (list.snapshot(), Vec::new());
    let mut out: Vec<(i64, f64)> = Vec::new();
    let mut put = |kept: Kept| {
        for (_, sample) in kept.samples {
            match out.iter().find(|(at, _)| *at == sample.at.as_millis()) {
                Some((_, value)) if !time_passes => {
                    assert_eq!(value.to_bits(), sample.value.to_bits());
                }
                Some(_) => {}
                None => out.push((sample.at.as_millis(), sample.value)),
            }
        }
    };
    for (i, request) in requests.iter().enumerate() {
        let now = at(request.rows.first().filter(|_| time_passes).map_or(0, |row| row.1));
        if crashes && request.fate != Fate::Fine {
            let kept = list.apply(rows_of(request), vec![], vec![], now);
            if request.fate == Fate::Unanswered {
                put(kept);
                changes.extend(list.changes());
            }
            list = allowlist(RULE);
            list.restore(&snapshot, &changes).unwrap();
        }
        put(list.apply(rows_of(request), vec![], vec![], now));
        changes.extend(list.changes());
        if i % 7 == 6 {
            snapshot = list.snapshot();
            changes.clear();
        }
        let mut again = allowlist(RULE);
        again.restore(&snapshot, &changes).unwrap();
        assert_eq!(again.snapshot(), list.snapshot());
    }
    put(list.finish(at(10_000)));
    let last: Vec<_> = (0..4).map(|member| (member, 10_000, 1000.0)).collect();
    put(list.apply(rows_of(&Request { rows: last, fate: Fate::Fine }), vec![], vec![], at(10_000)));
    put(list.finish(at(10_000)));
    out
}

proptest! {
    #[test]
    fn crashes_do_not_change_merged_counters(requests in requests()) {
        let bits = |out: &[(i64, f64)]| out.iter().map(|(at, v)| (*at, v.to_bits())).collect::<Vec<_>>();
        let calm = run(&requests, false, false);
        let stormy = run(&requests, true, false);
        prop_assert_eq!(bits(&calm), bits(&stormy));
        // When rounds also settle by time, an agent that was away waits anew; in the end the sum is the same.
        let calm = run(&requests, false, true);
        let stormy = run(&requests, true, true);
        prop_assert_eq!(bits(&calm).pop(), bits(&stormy).pop());
        // Timestamps grow, and values never fall.
        for out in [calm, stormy] {
            let values: Vec<f64> = out.iter().map(|(_, v)| *v).filter(|v| !is_stale(*v)).collect();
            prop_assert!(values.windows(2).all(|pair| pair[0] <= pair[1]), "{:?}", values);
            prop_assert!(out.windows(2).all(|pair| pair[0].0 < pair[1].0));
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64), tail in 1_u8..10) {
        let mut list = allowlist(RULE);
        let mut made = list.snapshot();
        made.truncate(33);
        made.push(tail);
        made.extend(&bytes);
        let _ = list.restore(&made, &[]);
        let _ = list.restore(&[], &[made]);
        let _ = list.restore(&bytes, &[]);
    }
}
