//! Rotation: of leaves, of the authority, and of everything after a theft; resumable at every step.

mod plan;

pub use plan::{Kind, Lack, Outcome, Past, Rotation, Sighting, Step};
