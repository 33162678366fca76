//! The state of a node's clock, as nodes tell each other.

/// The state of a node's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClockState {
    /// Nothing: the node is of a version that does not tell.
    #[default]
    Unknown,
    /// Nothing contradicts it.
    Agrees,
    /// Ids with a time later than it may have been forgotten: all ids with a time are refused.
    BehindHorizon,
    /// It is not what those of most nodes are. The node owns no lanes.
    Off,
}

impl ClockState {
    /// Its name in a node's key.
    pub(super) fn name(self) -> Option<&'static str> {
        match self {
            Self::Unknown => None,
            Self::Agrees => Some("agrees"),
            Self::BehindHorizon => Some("behind_horizon"),
            Self::Off => Some("off"),
        }
    }

    /// The state of a name; one of a later version tells nothing.
    pub(super) fn from_name(name: Option<&str>) -> Self {
        let all = [Self::Agrees, Self::BehindHorizon, Self::Off];
        let found = all
            .into_iter()
            .find(|state| name.is_some() && state.name() == name);
        found.unwrap_or_default()
    }
}
