//! One line of the table: what was measured, beside what, and whether that is what it should be.

use std::fmt::Write as _;
use std::os::fd::OwnedFd;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

/// One measured figure.
#[derive(Clone, Debug)]
pub struct Row {
    what: String,
    unit: &'static str,
    value: Option<f64>,
    missing: Option<String>,
    peer: Option<Peer>,
    goal: Option<Goal>,
}

/// What the figure is measured beside, in the same run.
#[derive(Clone, Debug)]
pub enum Peer {
    /// Its name and its figure, in the unit of the row.
    Measured(String, f64),
    /// Why there is none.
    Missing(&'static str),
}

impl Peer {
    /// A peer with its figure.
    pub fn measured(name: &str, value: f64) -> Self {
        Self::Measured(name.to_owned(), value)
    }
}

/// What is to be reached.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    /// At least this.
    AtLeast(f64),
    /// At most this.
    AtMost(f64),
    /// At least so many times the peer's.
    TimesPeer(f64),
    /// At most this part of the peer's.
    PartOfPeer(f64),
    /// At most so much more than the peer's.
    OverPeer(f64),
}

impl Row {
    /// A figure; `None` where it could not be measured.
    pub fn new(what: &str, unit: &'static str, value: Option<f64>) -> Self {
        Self { what: what.to_owned(), unit, value, missing: None, peer: None, goal: None }
    }

    /// The figure could not be measured, because.
    pub fn missing(what: &str, unit: &'static str, why: String) -> Self {
        Self { missing: Some(why), ..Self::new(what, unit, None) }
    }

    /// With a peer.
    pub fn peer(self, peer: Peer) -> Self {
        Self { peer: Some(peer), ..self }
    }

    /// With a goal.
    pub fn goal(self, goal: Goal) -> Self {
        Self { goal: Some(goal), ..self }
    }

    /// Whether the goal is reached; `None` where nothing can be said.
    pub fn reached(&self) -> Option<bool> {
        let value = self.value?;
        let peer = match &self.peer {
            Some(Peer::Measured(_, value)) => Some(*value),
            _ => None,
        };
        Some(match self.goal? {
            Goal::AtLeast(goal) => value >= goal,
            Goal::AtMost(goal) => value <= goal,
            Goal::TimesPeer(times) => value >= times * peer?,
            Goal::PartOfPeer(part) => value <= part * peer?,
            Goal::OverPeer(more) => value - peer? <= more,
        })
    }

    /// The cells of the table: what, figure, peer, relation to the peer, goal, reached.
    pub fn cells(&self) -> [String; 6] {
        let value = self.value.map_or_else(
            || format!("not measured: {}", self.missing.as_deref().unwrap_or("no reason given")),
            |value| format!("{} {}", figure(value), self.unit),
        );
        let (peer, relation) = match (&self.peer, self.value) {
            (Some(Peer::Measured(name, peer)), Some(value)) => {
                let relation = match self.goal {
                    Some(Goal::OverPeer(_)) => format!("{:+.1}", value - peer),
                    _ => format!("{:.2} times", value / peer),
                };
                (format!("{name}: {}", figure(*peer)), relation)
            }
            (Some(Peer::Measured(name, peer)), None) => (format!("{name}: {}", figure(*peer)), String::new()),
            (Some(Peer::Missing(why)), _) => (format!("missing: {why}"), String::new()),
            (None, _) => (String::new(), String::new()),
        };
        let goal = match self.goal {
            Some(Goal::AtLeast(goal)) => format!("at least {}", figure(goal)),
            Some(Goal::AtMost(goal)) => format!("at most {}", figure(goal)),
            Some(Goal::TimesPeer(times)) => format!("at least {times} times the peer"),
            Some(Goal::PartOfPeer(part)) => format!("at most {part} times the peer"),
            Some(Goal::OverPeer(more)) => format!("at most {more} over the peer"),
            None => String::new(),
        };
        let reached = match (self.reached(), self.goal) {
            (Some(true), _) => "reached",
            (Some(false), _) => "NOT reached",
            (None, Some(_)) => "not known",
            (None, None) => "",
        };
        [self.what.clone(), value, peer, relation, goal, reached.to_owned()]
    }

    /// The row for programs.
    pub fn json(&self) -> Value {
        let (peer, peer_value, peer_missing) = match &self.peer {
            Some(Peer::Measured(name, value)) => (Some(name.as_str()), Some(*value), None),
            Some(Peer::Missing(why)) => (None, None, Some(*why)),
            None => (None, None, None),
        };
        let [.., goal, _] = self.cells();
        json!({
            "what": self.what, "unit": self.unit, "value": self.value, "not_measured": self.missing,
            "peer": peer, "peer_value": peer_value, "peer_missing": peer_missing,
            "goal": goal, "reached": self.reached(),
        })
    }
}

/// Three digits or all before the point, in groups.
fn figure(value: f64) -> String {
    if value < 1_000.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            grouped.push(',');
        }
        let _ = write!(grouped, "{digit}");
    }
    grouped
}

/// Standard output goes to standard error until this is dropped: what set-up and build say is no figure.
pub struct Diverted(OwnedFd);

/// Sends standard output to standard error.
pub fn divert_standard_output() -> Result<Diverted> {
    let before = rustix::io::dup(rustix::stdio::stdout()).context("cannot duplicate standard output")?;
    rustix::stdio::dup2_stdout(rustix::stdio::stderr()).context("cannot divert standard output")?;
    Ok(Diverted(before))
}

impl Drop for Diverted {
    fn drop(&mut self) {
        // Without it the figures go to standard error, where they can be seen all the same.
        let _ = rustix::stdio::dup2_stdout(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_reached_or_not_or_not_known() {
        let row = |goal: Goal| Row::new("x", "ns", Some(10.0)).goal(goal).peer(Peer::measured("y", 5.0));
        let table = [
            (Goal::AtLeast(10.0), true),
            (Goal::AtLeast(10.1), false),
            (Goal::AtMost(10.0), true),
            (Goal::AtMost(9.9), false),
            (Goal::TimesPeer(2.0), true),
            (Goal::TimesPeer(2.1), false),
            (Goal::PartOfPeer(2.0), true),
            (Goal::PartOfPeer(0.5), false),
            (Goal::OverPeer(5.0), true),
            (Goal::OverPeer(4.9), false),
        ];
        for (goal, expected) in table {
            assert_eq!(row(goal).reached(), Some(expected), "{goal:?}");
        }
        let alone = Row::new("x", "ns", Some(10.0)).goal(Goal::TimesPeer(2.0)).peer(Peer::Missing("not here"));
        assert_eq!(alone.reached(), None);
        assert_eq!(alone.cells()[5], "not known");
        let absent = Row::missing("x", "ns", "no privilege".to_owned()).goal(Goal::AtMost(1.0));
        assert_eq!((absent.reached(), absent.cells()[1].as_str()), (None, "not measured: no privilege"));
    }

    #[test]
    fn figures_are_grouped() {
        assert_eq!(["12.3", "1,000", "2,345,678"], [12.34, 1_000.0, 2_345_678.4].map(figure));
    }
}
