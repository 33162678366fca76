//! The state of a node's clock, as nodes tell each other.

/// The state of a node's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClockState {
    /// Not told: the node is of an earlier version.
    #[default]
    Unknown,
    /// No other clock and no horizon contradicts it.
    Agrees,
    /// Ids with later times than this clock's may have been forgotten, so all ids with a time are refused.
    BehindHorizon,
    /// It differs from the clocks of most nodes. The node owns no lanes.
    Off,
}

impl ClockState {
    /// The name of the state in a node's key.
    pub(super) fn name(self) -> Option<&'static str> {
        match self {
            Self::Unknown => None,
            Self::Agrees => Some("agrees"),
            Self::BehindHorizon => Some("behind_horizon"),
            Self::Off => Some("off"),
        }
    }

    /// The state with this name. A name of a later version gives [`Self::Unknown`].
    pub(super) fn from_name(name: Option<&str>) -> Self {
        let all = [Self::Agrees, Self::BehindHorizon, Self::Off];
        let found = all
            .into_iter()
            .find(|state| name.is_some() && state.name() == name);
        found.unwrap_or_default()
    }
}
