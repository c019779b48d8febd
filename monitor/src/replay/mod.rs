//! replay: capture files through the same stages as live traffic. Needs no privilege.

pub mod capture;
pub mod native;
pub mod progress;
pub mod table;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

pub use capture::{Capture, CaptureError, Frame, Start};
use monitor_common::RecordHeader;

use crate::classify::Classifier;
use crate::config::{OnOff, Settings};
use crate::export::{KernelCounts, Metrics};
use crate::pipeline::{Event, Pipeline};
use native::NativeKernel;
use progress::Progress;

use crate::watch::Watch;

/// Takes every frame of `capture` through the stages and hands what happens to `sink`; the kernel half's counts are
/// added to `counts`. Connections that are open at the end are listed then.
///
/// # Errors
/// The capture is cut short or damaged: what came before has been handed on.
pub fn replay(
    capture: &mut Capture,
    settings: &Settings,
    metrics: &Arc<Metrics>,
    counts: &mut KernelCounts,
    mut sink: impl FnMut(Event<'_>),
) -> Result<(), CaptureError> {
    let names: Arc<RwLock<HashMap<u32, Arc<str>>>> = Arc::default();
    let known = Arc::clone(&names);
    let interface_name =
        move |index: u32| known.read().unwrap_or_else(PoisonError::into_inner).get(&index).map(Arc::clone);
    let discovers = settings.discover_plaintext == OnOff::On;
    let mut kernel = NativeKernel::new(Watch::new(settings, &[])).discovering(discovers);
    let mut pipeline =
        Pipeline::new(Classifier::new(settings), Arc::clone(metrics), Box::new(interface_name), Duration::ZERO);
    let mut progress = Progress::new(capture.name(), capture.total());
    let mut feedback = Vec::new();
    let mut last_interface = None;
    let outcome = loop {
        match capture.next_frame() {
            Ok(Some(frame)) => {
                if last_interface != Some(frame.interface) {
                    last_interface = Some(frame.interface);
                    if let Some(name) = frame.interface_name {
                        let mut names = names.write().unwrap_or_else(PoisonError::into_inner);
                        names.insert(frame.interface, Arc::clone(name));
                    }
                }
                let tap = frame.interface | if frame.outgoing { RecordHeader::EGRESS } else { 0 };
                pipeline.sweep(frame.time, &mut sink);
                kernel.frame(frame.start, frame.time, tap, frame.bytes, |record| {
                    feedback.extend(pipeline.record(&record, &mut sink));
                });
            }
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
        for decided in feedback.drain(..) {
            kernel.decide(&decided.key, decided.born, decided.decision);
        }
        for forget in pipeline.take_forget() {
            kernel.forget(&forget);
        }
        progress.at(capture.position());
    };
    pipeline.finish(&mut sink);
    progress.finish();
    kernel.add_counts(counts);
    outcome
}
