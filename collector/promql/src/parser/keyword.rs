//! The words with a meaning of their own, and how messages name tokens.

use crate::ast::operator::AggregateOp;
use crate::lexer::{Token, TokenKind};

/// A token as messages name it.
pub(super) fn describe(text: &str, token: &Token) -> String {
    let word = text.get(token.span.start..token.span.end).unwrap_or("");
    match token.kind {
        TokenKind::End => "end of input".to_owned(),
        TokenKind::Number => format!("number {}", shortened(word)),
        TokenKind::Duration => format!("duration {}", shortened(word)),
        TokenKind::String => format!("string {}", shortened(word)),
        TokenKind::Identifier => describe_word(word),
        TokenKind::Comma
        | TokenKind::Colon
        | TokenKind::LeftParen
        | TokenKind::RightParen
        | TokenKind::LeftBrace
        | TokenKind::RightBrace
        | TokenKind::LeftBracket
        | TokenKind::RightBracket
        | TokenKind::Assign => format!("{word:?}"),
        _ => format!("<op:{word}>"),
    }
}

fn describe_word(word: &str) -> String {
    let lower = word.to_ascii_lowercase();
    match Keyword::from_word(word) {
        Some(Keyword::And | Keyword::Or | Keyword::Unless | Keyword::Atan2) => {
            format!("<op:{word}>")
        }
        Some(Keyword::Fill | Keyword::FillLeft | Keyword::FillRight) | None => {
            if AggregateOp::ALL.iter().any(|op| op.as_str() == lower) {
                format!("<aggr:{word}>")
            } else if word.contains(':') {
                format!("metric identifier {word:?}")
            } else {
                format!("identifier {word:?}")
            }
        }
        Some(keyword) if keyword.may_be_function() => format!("{word:?}"),
        Some(_) => format!("<{word}>"),
    }
}

/// A text in quotes, cut after ten characters.
fn shortened(word: &str) -> String {
    if word.len() > 10 {
        format!("{:?}...", word.chars().take(10).collect::<String>())
    } else {
        format!("{word:?}")
    }
}

/// The words with a meaning of their own, aggregations apart. They are not case-sensitive, and most of them may also be
/// names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keyword {
    And,
    Or,
    Unless,
    Atan2,
    Offset,
    Anchored,
    Smoothed,
    By,
    Without,
    On,
    Ignoring,
    GroupLeft,
    GroupRight,
    Fill,
    FillLeft,
    FillRight,
    Bool,
    Start,
    End,
    Step,
    Range,
    MaxOf,
    MinOf,
}

impl Keyword {
    pub(super) fn from_word(word: &str) -> Option<Self> {
        Some(match word.to_ascii_lowercase().as_str() {
            "and" => Self::And,
            "or" => Self::Or,
            "unless" => Self::Unless,
            "atan2" => Self::Atan2,
            "offset" => Self::Offset,
            "anchored" => Self::Anchored,
            "smoothed" => Self::Smoothed,
            "by" => Self::By,
            "without" => Self::Without,
            "on" => Self::On,
            "ignoring" => Self::Ignoring,
            "group_left" => Self::GroupLeft,
            "group_right" => Self::GroupRight,
            "fill" => Self::Fill,
            "fill_left" => Self::FillLeft,
            "fill_right" => Self::FillRight,
            "bool" => Self::Bool,
            "start" => Self::Start,
            "end" => Self::End,
            "step" => Self::Step,
            "range" => Self::Range,
            "max_of" => Self::MaxOf,
            "min_of" => Self::MinOf,
            _ => return None,
        })
    }

    pub(super) fn may_be_metric(self) -> bool {
        !matches!(
            self,
            Self::Atan2
                | Self::On
                | Self::Ignoring
                | Self::GroupLeft
                | Self::GroupRight
                | Self::Bool
        )
    }

    pub(super) fn may_be_function(self) -> bool {
        matches!(
            self,
            Self::Start | Self::End | Self::Step | Self::Range | Self::MaxOf | Self::MinOf
        )
    }
}
