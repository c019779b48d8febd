//! The probe onto one binary, and away again. Never at a function's return address (uretprobe): Go moves its stacks,
//! and a return address that the kernel replaced crashes it (golang/go#22008). Returns are probed where they stand.

use std::fs::File;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use monitor_common::ProbeLayout;

use super::authenticator::{Authenticator, Form, Point};
use super::kernel::{Kernel, Programs};
use super::system;

/// How programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// A link that holds all places; kernel 6.6 and later.
    UprobeMulti,
    /// A perf event for each place.
    PerfEvent,
}

impl Way {
    /// The word used in metrics and JSON.
    pub fn label(self) -> &'static str {
        match self {
            Self::UprobeMulti => "uprobe_multi",
            Self::PerfEvent => "perf_event",
        }
    }

    /// The capabilities that it needs.
    pub fn needs(self) -> &'static str {
        match self {
            Self::UprobeMulti => "CAP_BPF and CAP_PERFMON",
            Self::PerfEvent => "CAP_BPF, CAP_PERFMON and CAP_SYS_ADMIN",
        }
    }
}

/// The probe on one binary. Dropping it detaches.
pub struct Attached {
    way: Way,
    forms: Vec<AttachedForm>,
    answers: Result<bool, String>,
}

/// The functions of one form. They share programs.
struct AttachedForm {
    programs: Programs,
    points: Vec<Point>,
    _entries: Vec<OwnedFd>,
    answers: Vec<OwnedFd>,
}

impl Attached {
    /// Attaches to the entries of all the authenticator's functions; `way`: that one only, else the one that needs the
    /// least.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn new(
        kernel: &Kernel,
        binary: &File,
        authenticator: &Authenticator,
        attachment: u32,
        way: Option<Way>,
    ) -> Result<Self> {
        let attach = |way| Self::in_way(kernel, binary, authenticator, attachment, way);
        match way {
            Some(way) => attach(way),
            None => attach(Way::UprobeMulti).or_else(|error| {
                tracing::debug!("no link with several uprobes, trying perf events: {error:#}");
                attach(Way::PerfEvent)
            }),
        }
    }

    fn in_way(
        kernel: &Kernel,
        binary: &File,
        authenticator: &Authenticator,
        attachment: u32,
        way: Way,
    ) -> Result<Self> {
        let mut forms = Vec::new();
        for form in [Form::Method, Form::Closure] {
            let points: Vec<Point> = authenticator.points.iter().filter(|point| point.form == form).cloned().collect();
            if points.is_empty() {
                continue;
            }
            let layout = authenticator.layout;
            let layout = ProbeLayout {
                attachment,
                method_form: u32::from(form == Form::Method),
                method: layout.method,
                url: layout.url,
                proto_major: layout.proto_major,
                remote: layout.remote,
                path: layout.path,
                reserved: 0,
            };
            let programs = kernel.programs(layout, way == Way::UprobeMulti)?;
            let offsets: Vec<u64> = points.iter().map(|point| point.entry).collect();
            let entries = attach(way, &programs.entry, &path_of(binary), &offsets)?;
            forms.push(AttachedForm { programs, points, _entries: entries, answers: Vec::new() });
        }
        Ok(Self { way, forms, answers: Ok(false) })
    }

    /// How it is attached.
    pub fn way(&self) -> Way {
        self.way
    }

    /// Whether answers are seen.
    pub fn sees_answers(&self) -> bool {
        self.answers == Ok(true)
    }

    /// Whether answers are seen, and why not where that was tried.
    pub fn answers(&self) -> &Result<bool, String> {
        &self.answers
    }

    /// Attaches to the returns of the functions that know conditions too. Tried once.
    pub fn attach_answers(&mut self, binary: &File) {
        if self.answers != Ok(false) {
            return;
        }
        self.answers = self.try_answers(binary).map(|()| true).map_err(|error| format!("{error:#}"));
    }

    fn try_answers(&mut self, binary: &File) -> Result<()> {
        let way = self.way;
        for form in &mut self.forms {
            let returns = |point: &Point| (!point.returns.is_empty()).then(|| point.returns.clone());
            let offsets: Option<Vec<_>> = form.points.iter().map(returns).collect();
            let offsets = offsets.context("the returns of the authenticator were not found")?.concat();
            form.answers = attach(way, &form.programs.answer, &path_of(binary), &offsets)?;
        }
        Ok(())
    }
}

/// The very file that is open, whatever stands under its name meanwhile.
fn path_of(binary: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", binary.as_raw_fd()))
}

fn attach(way: Way, program: &OwnedFd, path: &Path, offsets: &[u64]) -> Result<Vec<OwnedFd>> {
    match way {
        Way::UprobeMulti => system::link(program, path, offsets)
            .map(|link| vec![link])
            .map_err(|error| system::explain("attaching by a link", error)),
        Way::PerfEvent => offsets
            .iter()
            .map(|offset| system::perf_event(program, path, *offset))
            .collect::<Result<_, _>>()
            .map_err(|error| system::explain("attaching by a perf event", error)),
    }
}
