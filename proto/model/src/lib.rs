//! The vocabulary both ends speak: labels, matchers, samples, series, cluster names and their text forms.

pub mod cluster;
pub mod diagnostic;
pub mod duration;
pub mod exposition;
pub mod fields;
pub mod histogram;
pub mod label;
pub mod matcher;
pub mod number;
pub mod protobuf;
pub mod quote;
pub mod regex;
pub mod sample;
pub mod selector;
pub mod series;
pub mod yaml;
