//! Whether the reference contradicts itself: a Prometheus 3.5 takes histograms into use again that something else still
//! has, and spoils them. Asked again, or about one step of a range alone, it says something else.

use super::compare::{TOLERANCE, Verdict, compare, difference};
use super::engine::{Answer, Engine, Question, Series};

/// It is asked so often whether it stays with what it said.
const ASKED_AGAIN: usize = 20;

/// Whether the reference once says what the target said.
pub async fn agrees_later(
    expression: &str,
    question: Question,
    got: &Answer,
    reference: &Engine,
) -> anyhow::Result<bool> {
    for _ in 0..ASKED_AGAIN {
        let wanted = reference.ask(expression, question).await?;
        if !matches!(compare(expression, &wanted, got), Verdict::Different(_)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether instant queries of the reference at all steps of a range say what the target said.
pub async fn agrees_by_steps(
    expression: &str,
    question: Question,
    got: &Answer,
    reference: &Engine,
) -> anyhow::Result<bool> {
    // These are other times in an instant query.
    let depends = ["start()", "end()", "range()", "step()"].iter().any(|f| expression.contains(f));
    let (Question::Range(start, end, step), Ok(got), false) = (question, &got.result, depends)
    else {
        return Ok(false);
    };
    let mut at = start;
    while at <= end {
        let Ok(wanted) = reference.ask(expression, Question::Instant(at)).await?.result else {
            return Ok(false);
        };
        let here = got.series.iter().map(|(labels, points)| {
            let points = points.iter().filter(|(time, _)| *time == at).cloned().collect::<Vec<_>>();
            (labels.clone(), points)
        });
        let series = here.filter(|(_, points)| !points.is_empty()).collect();
        let own = Series { kind: wanted.kind.clone(), series };
        if difference(&wanted, &own, TOLERANCE).is_some() {
            return Ok(false);
        }
        at += step;
    }
    Ok(true)
}
