//! Requests in the order in which they were sent, and which response belongs to which.

use std::collections::VecDeque;

use super::{Observation, Request};

/// Requests beyond [`Observation::REQUESTS`] that wait for their response at the most.
const HELD: usize = 256;
/// Requests that wait for [`Observation::take_overflow`] at the most.
const OVERFLOW: usize = 4_096;

/// A request's number in its connection.
pub type RequestNumber = u64;

/// Adds requests to an observation up to its cap, and keeps the later ones until they are done.
#[derive(Debug, Default)]
pub struct Ledger {
    next: RequestNumber,
    held: VecDeque<(RequestNumber, Request)>,
}

impl Ledger {
    /// Adds a request.
    pub fn add(&mut self, request: Request, observation: &mut Observation) -> RequestNumber {
        let number = self.next;
        self.next += 1;
        if observation.requests.len() < Observation::REQUESTS {
            observation.requests.push(request);
        } else {
            observation.requests_omitted += 1;
            if self.held.len() == HELD
                && let Some((_, oldest)) = self.held.pop_front()
            {
                done(oldest, observation);
            }
            self.held.push_back((number, request));
        }
        number
    }

    /// Memory that requests beyond the cap take.
    pub fn held(&self) -> usize {
        self.held.iter().map(|(_, request)| request.memory()).sum()
    }

    /// Whether no request was added.
    pub const fn is_empty(&self) -> bool {
        self.next == 0
    }

    /// Notes the status of a request's final response.
    pub fn status(&mut self, number: RequestNumber, status: u16, observation: &mut Observation) {
        if let Some(request) = usize::try_from(number).ok().and_then(|index| observation.requests.get_mut(index)) {
            request.status = Some(status);
        } else if let Some(place) = self.held.iter().position(|(held, _)| *held == number)
            && let Some((_, mut request)) = self.held.remove(place)
        {
            request.status = Some(status);
            done(request, observation);
        }
    }

    /// No more responses will come.
    pub fn finish(&mut self, observation: &mut Observation) {
        self.held.drain(..).for_each(|(_, request)| done(request, observation));
    }

    /// Puts one request in the place of all.
    pub fn replace(&mut self, request: Request, observation: &mut Observation) -> RequestNumber {
        observation.requests.clear();
        *self = Self::default();
        self.add(request, observation)
    }
}

fn done(request: Request, observation: &mut Observation) {
    if observation.overflow.len() < OVERFLOW {
        observation.overflow.push(request);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::{Credential, QueryHints};

    fn request(path: &str) -> Request {
        Request {
            method: "GET".into(),
            path: path.into(),
            query: QueryHints::default(),
            credential: Credential::None,
            status: None,
            reported: false,
        }
    }

    #[test]
    fn requests_after_the_cap_are_counted_and_handed_over_when_done() {
        let (mut ledger, mut observation) = (Ledger::default(), Observation::default());
        for number in 0..Observation::REQUESTS + 3 {
            assert_eq!(ledger.add(request(&number.to_string()), &mut observation), number as u64);
        }
        assert_eq!((observation.requests.len(), observation.requests_omitted), (Observation::REQUESTS, 3));
        ledger.status(1, 200, &mut observation);
        ledger.status(Observation::REQUESTS as u64 + 1, 403, &mut observation);
        assert_eq!(observation.requests[1].status, Some(200));
        let over = observation.take_overflow();
        assert_eq!(
            over.iter().map(|request| (&*request.path, request.status)).collect::<Vec<_>>(),
            [("1001", Some(403))]
        );
        ledger.finish(&mut observation);
        assert_eq!(observation.take_overflow().len(), 2);
    }

    #[test]
    fn what_waits_is_capped() {
        let (mut ledger, mut observation) = (Ledger::default(), Observation::default());
        for _ in 0..Observation::REQUESTS + HELD + 2 * OVERFLOW {
            ledger.add(request("/"), &mut observation);
        }
        assert_eq!((ledger.held.len(), observation.overflow.len()), (HELD, OVERFLOW));
    }
}
