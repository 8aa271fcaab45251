//! Properties of histograms and their arithmetic.

use proptest::prelude::*;

use super::*;

fn buckets(pairs: &[(i32, f64)]) -> Buckets {
    pairs.iter().copied().collect()
}

fn exponential(schema: i8, zero: (f64, f64), positive: &[(i32, f64)]) -> Histogram {
    let positive = buckets(positive);
    let count = zero.1 + positive.counts().iter().sum::<f64>();
    Histogram::new(Parts {
        schema: Schema::Exponential(schema),
        zero_threshold: zero.0,
        zero_count: zero.1,
        count,
        sum: count * 2.0,
        positive,
        ..Parts::default()
    })
    .unwrap()
}

fn custom(bounds: &[f64], counts: &[(i32, f64)]) -> Histogram {
    let positive = buckets(counts);
    let count = positive.counts().iter().sum();
    let schema = Schema::Custom(bounds.into());
    Histogram::new(Parts { schema, count, positive, ..Parts::default() }).unwrap()
}

fn total(histogram: &Histogram) -> f64 {
    let sides = histogram.positive().iter().chain(histogram.negative().iter());
    histogram.zero_count() + sides.map(|(_, count)| count).sum::<f64>()
}

#[test]
fn spans_are_put_in_normal_form() {
    let span = |offset, length| Span { offset, length };
    let spans = [span(-2, 1), span(0, 1), span(1, 0), span(1, 2), span(3, 0)];
    let got = Buckets::new(&spans, vec![1.0, 2.0, 3.0, 4.0]).unwrap();
    assert_eq!(got.spans(), [span(-2, 2), span(2, 2)]);
    let pairs = [(-2, 1.0), (-1, 2.0), (2, 3.0), (3, 4.0)];
    assert_eq!(got.iter().collect::<Vec<_>>(), pairs);
    assert_eq!(got.iter().rev().collect::<Vec<_>>(), pairs.into_iter().rev().collect::<Vec<_>>());
    assert_eq!((got.first_index(), got.last_index()), (Some(-2), Some(3)));
    assert_eq!(got, buckets(&pairs));
}

#[test]
fn broken_parts_are_refused() {
    let span = |offset, length| Span { offset, length };
    for (spans, counts) in [
        (vec![span(0, 2)], vec![1.0]),
        (vec![span(0, 1), span(-1, 1)], vec![1.0; 2]),
        (vec![span(i32::MAX, 1)], vec![1.0]),
        (vec![span(i32::MIN, 1)], vec![1.0]),
        (vec![span(0, 1), span(i32::MAX, 1)], vec![1.0; 2]),
        (vec![span(0, u32::MAX), span(0, u32::MAX)], vec![]),
    ] {
        assert!(Buckets::new(&spans, counts).is_err(), "{spans:?}");
    }
    let plain = Parts::<f64>::default;
    let with = |schema| Parts { schema, ..plain() };
    for parts in [
        with(Schema::Exponential(9)),
        with(Schema::Exponential(-5)),
        with(Schema::Custom([1.0, 1.0].into())),
        with(Schema::Custom([f64::NAN].into())),
        with(Schema::Custom([f64::INFINITY].into())),
        Parts { zero_threshold: f64::NAN, ..plain() },
        Parts { zero_threshold: f64::INFINITY, ..plain() },
        Parts { zero_threshold: -1.0, ..plain() },
        Parts { positive: buckets(&[(2, 1.0)]), ..with(Schema::Custom([1.0].into())) },
        Parts { positive: buckets(&[(-1, 1.0)]), ..with(Schema::Custom([1.0].into())) },
        Parts { negative: buckets(&[(0, 1.0)]), ..with(Schema::Custom([1.0].into())) },
        Parts { zero_count: 1.0, ..with(Schema::Custom([1.0].into())) },
    ] {
        assert!(Histogram::new(parts.clone()).is_err(), "{parts:?}");
    }
    let negative = Parts { positive: buckets(&[(0, -1.0)]), ..plain() };
    assert!(Histogram::new(negative.clone()).is_ok());
    assert_eq!(Histogram::observed(negative), Err(HistogramError::Negative(-1.0)));
}

#[test]
fn text_form_is_prometheus() {
    let mut parts = exponential(0, (0.5, 1.0), &[(1, 2.0), (2, 0.0), (3, 1e7)]).into_parts();
    parts.negative = buckets(&[(0, 1.0), (1, 2.0)]);
    parts.sum = f64::NAN;
    let text = "{count:1.0000003e+07, sum:NaN, [-2,-1):2, [-1,-0.5):1, [-0.5,0.5]:1, (1,2]:2, (4,8]:1e+07}";
    assert_eq!(Histogram::new(parts).unwrap().to_string(), text);
    let text = "{count:3, sum:0, [-Inf,1]:1, (2,+Inf]:2}";
    assert_eq!(custom(&[1.0, 2.0], &[(0, 1.0), (2, 2.0)]).to_string(), text);
}

#[test]
fn the_zero_bucket_grows_to_the_end_of_a_bucket() {
    let mut narrow = exponential(0, (0.25, 1.0), &[(-1, 0.0), (0, 2.0), (1, 4.0), (3, 8.0)]);
    let wide = exponential(0, (1.5, 1.0), &[(3, 1.0)]);
    narrow.add(&wide).unwrap();
    assert_eq!(narrow.zero_threshold(), 2.0);
    assert_eq!(narrow.zero_count(), 8.0);
    assert_eq!(narrow.positive(), &buckets(&[(3, 9.0)]));
    assert_eq!(narrow.count(), 17.0);
}

#[test]
fn the_coarser_schema_wins() {
    let mut fine = exponential(1, (0.0, 0.0), &[(1, 1.0), (2, 2.0), (3, 4.0)]);
    fine.add(&exponential(0, (0.0, 0.0), &[(1, 10.0), (5, 1.0)])).unwrap();
    assert_eq!(fine.schema(), &Schema::Exponential(0));
    assert_eq!(fine.positive(), &buckets(&[(1, 13.0), (2, 4.0), (5, 1.0)]));
}

#[test]
fn custom_bounds_are_reduced_to_the_common_ones() {
    let mut a = custom(&[1.0, 2.0, 4.0], &[(0, 1.0), (1, 2.0), (3, 4.0)]);
    let b = custom(&[2.0, 3.0, 4.0], &[(0, 1.0), (1, 1.0), (2, 1.0)]);
    assert!(a.add(&b).unwrap().bounds_differ);
    assert_eq!(a.schema(), &Schema::Custom([2.0, 4.0].into()));
    assert_eq!(a.positive(), &buckets(&[(0, 4.0), (1, 2.0), (2, 4.0)]));
    assert_eq!(a.add(&exponential(0, (0.0, 0.0), &[])), Err(MixedSchemas));
}

#[test]
fn resets_are_falls_and_finer_layouts() {
    let base = exponential(0, (0.5, 1.0), &[(1, 2.0), (2, 4.0)]);
    for (next, reset) in [
        (exponential(0, (0.5, 1.0), &[(1, 2.0), (2, 4.0)]), false),
        (exponential(0, (0.5, 1.0), &[(1, 3.0), (2, 4.0), (3, 1.0)]), false),
        (exponential(0, (0.5, 1.0), &[(1, 1.0), (2, 9.0)]), true),
        (exponential(0, (0.5, 9.0), &[(2, 4.0)]), true),
        (exponential(0, (0.5, 0.0), &[(1, 9.0), (2, 4.0)]), true),
        (exponential(1, (0.5, 1.0), &[(1, 9.0), (3, 4.0)]), true),
        (exponential(0, (0.25, 1.0), &[(1, 2.0), (2, 4.0)]), true),
        (exponential(-1, (0.5, 1.0), &[(1, 6.0)]), false),
        (exponential(-1, (0.5, 9.0), &[(1, 5.0)]), true),
        (exponential(0, (2.0, 3.0), &[(2, 4.0)]), false),
        (exponential(0, (1.5, 9.0), &[(2, 4.0)]), true),
        (custom(&[1.0], &[(0, 99.0)]), true),
    ] {
        assert_eq!(next.is_reset_after(&base), reset, "{next}");
    }
    let lower = exponential(0, (0.5, 0.0), &[]);
    assert!(!lower.clone().with_hint(ResetHint::NotReset).is_reset_after(&base));
    assert!(base.clone().with_hint(ResetHint::Reset).is_reset_after(&lower));
    let before = custom(&[1.0, 2.0], &[(0, 1.0), (1, 1.0)]);
    assert!(!custom(&[2.0, 3.0], &[(0, 2.0)]).is_reset_after(&before));
    assert!(custom(&[2.0, 3.0], &[(0, 1.0), (1, 9.0)]).is_reset_after(&before));
}

#[test]
fn hints_follow_from_the_sample_before() {
    let base = exponential(0, (0.5, 1.0), &[(1, 2.0)]);
    let gauge = base.clone().with_hint(ResetHint::Gauge);
    let more = exponential(0, (0.5, 1.0), &[(1, 3.0)]);
    let less = exponential(0, (0.5, 1.0), &[(1, 1.0)]);
    assert_eq!(base.hint_after(None), ResetHint::Unknown);
    assert_eq!(more.hint_after(Some(&base)), ResetHint::NotReset);
    assert_eq!(less.hint_after(Some(&base)), ResetHint::Unknown);
    assert_eq!(more.hint_after(Some(&gauge)), ResetHint::Unknown);
    assert_eq!(gauge.hint_after(Some(&base)), ResetHint::Gauge);
    assert_eq!(exponential(1, (0.5, 1.0), &[(1, 9.0)]).hint_after(Some(&base)), ResetHint::Unknown);
}

fn any_buckets() -> impl Strategy<Value = Buckets> {
    proptest::collection::btree_map(-40_i32..40, 0_u32..9, 0..12)
        .prop_map(|map| map.into_iter().map(|(index, count)| (index, f64::from(count))).collect())
}

prop_compose! {
    fn any_exponential()(
        schema in COARSEST..=FINEST,
        threshold in prop_oneof![Just(0.0), 0.0_f64..4.0],
        zero in 0_u32..9,
        positive in any_buckets(),
        negative in any_buckets(),
        sum in -1e3_f64..1e3,
    ) -> Histogram {
        let zero_count = f64::from(zero);
        let sides = positive.counts().iter().chain(negative.counts());
        let count = zero_count + sides.sum::<f64>();
        Histogram::observed(Parts {
            hint: ResetHint::Unknown,
            schema: Schema::Exponential(schema),
            zero_threshold: threshold,
            zero_count,
            count,
            sum,
            positive,
            negative,
        })
        .unwrap()
    }
}

prop_compose! {
    fn any_custom()(
        bounds in proptest::collection::btree_set(-20_i32..20, 0..8),
        counts in proptest::collection::vec(0_u32..9, 9),
    ) -> Histogram {
        let bounds: Vec<f64> = bounds.into_iter().map(f64::from).collect();
        let counts = counts.iter().take(bounds.len() + 1);
        let pairs: Vec<(i32, f64)> =
            counts.enumerate().map(|(at, c)| (i32::try_from(at).unwrap(), f64::from(*c))).collect();
        custom(&bounds, &pairs)
    }
}

proptest! {
    /// Sums lose no observation, whatever the layouts.
    #[test]
    fn sums_keep_all_observations(a in any_exponential(), b in any_exponential()) {
        let mut sum = a.clone();
        sum.add(&b).unwrap();
        prop_assert_eq!(sum.count(), a.count() + b.count());
        prop_assert_eq!(total(&sum), total(&a) + total(&b));
        prop_assert!(sum.zero_threshold() >= a.zero_threshold().max(b.zero_threshold()));
        let mut other = b.clone();
        other.add(&a).unwrap();
        prop_assert_eq!(sum.compacted(), other.compacted());
    }

    /// What was added can be subtracted again: all counts return to those of the coarser layout.
    #[test]
    fn differences_undo_sums(a in any_exponential(), b in any_exponential()) {
        let mut sum = a.clone();
        sum.add(&b).unwrap();
        sum.subtract(&b).unwrap();
        prop_assert_eq!(sum.count(), a.count());
        prop_assert_eq!(total(&sum), total(&a));
        let mut nothing = a.clone();
        nothing.subtract(&a).unwrap();
        let nothing = nothing.compacted();
        prop_assert!(nothing.positive().is_empty() && nothing.negative().is_empty());
    }

    /// The same for custom bounds; the result's bounds are in both.
    #[test]
    fn custom_sums_keep_all_observations(a in any_custom(), b in any_custom()) {
        let mut sum = a.clone();
        sum.add(&b).unwrap();
        prop_assert_eq!(total(&sum), total(&a) + total(&b));
        let bounds = |histogram: &Histogram| match histogram.schema() {
            Schema::Custom(bounds) => bounds.to_vec(),
            Schema::Exponential(_) => Vec::new(),
        };
        let (sum, a, b) = (bounds(&sum), bounds(&a), bounds(&b));
        prop_assert!(sum.iter().all(|bound| a.contains(bound) && b.contains(bound)));
    }

    /// A counter that only gained is not reset, in its own layout and in a coarser one.
    #[test]
    fn gains_are_no_resets(a in any_exponential(), more in any_exponential()) {
        let mut later = a.clone();
        later.add(&more).unwrap();
        prop_assert!(!later.is_reset_after(&a), "{} after {}", later, a);
        if total(&more) > 0.0 {
            prop_assert!(a.is_reset_after(&later) || total(&a) == total(&later));
        }
    }

    /// Buckets ascend once none is inside the zero bucket.
    #[test]
    fn buckets_ascend(a in any_exponential(), threshold in 4.0_f64..9.0) {
        let mut a = a;
        a.add(&exponential(COARSEST, (threshold, 0.0), &[])).unwrap();
        for pair in a.compacted().buckets().windows(2) {
            prop_assert!(pair[0].lower <= pair[1].lower, "{:?}", pair);
        }
    }

    /// Spans and counts make the same buckets again, in both directions.
    #[test]
    fn buckets_survive_their_parts(a in any_buckets()) {
        let again = Buckets::new(a.spans(), a.counts().to_vec()).unwrap();
        prop_assert_eq!(&again, &a);
        let mut back: Vec<_> = a.iter().rev().collect();
        back.reverse();
        prop_assert_eq!(back, a.iter().collect::<Vec<_>>());
    }
}
