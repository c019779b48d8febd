//! The kernel half on an interface, and one capture through it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use monitor::attach::object::KernelHalf;
use monitor::attach::{AttachMode, Attached, Policy};
use monitor::classify::Classifier;
use monitor::config::{OnOff, Settings};
use monitor::export::Metrics;
use monitor::pipeline::{Event, Pipeline};
use monitor::receive;
use monitor::replay::Capture;
use monitor::watch::Watch;
use monitor_common::{
    FlowKey, FlowState, Handshake, Hook, KernelEvent, LossReason, PacketCount, Role, Side, Skip, SourceClass, Verdict,
};
use monitor_ebpf::parse::parse_ethernet;
use monitor_ebpf::select::{Watched, select};
use monitor_ebpf::tables::Tables;
use monitor_tests::captures::{Labelled, Replayed, line, replayed, settings};
use monitor_tests::kernel::{Counts, Kernel, Record};
use monitor_tests::namespace::Namespace;
use monitor_tests::wire::Wire;

/// What is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hooks {
    XdpNativeTcx,
    XdpNativeClsact,
    XdpGenericTcx,
    TcxAlone,
    ClsactAlone,
}

impl Hooks {
    fn xdp(self) -> Option<AttachMode> {
        match self {
            Self::XdpNativeTcx | Self::XdpNativeClsact => Some(AttachMode::Native),
            Self::XdpGenericTcx => Some(AttachMode::Generic),
            Self::TcxAlone | Self::ClsactAlone => None,
        }
    }

    fn tc(self) -> AttachMode {
        match self {
            Self::XdpNativeTcx | Self::XdpGenericTcx | Self::TcxAlone => AttachMode::Tcx,
            Self::XdpNativeClsact | Self::ClsactAlone => AttachMode::Clsact,
        }
    }
}

/// When records are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// After each frame, as in `replay`: every line and every counter is the same. Records get the capture's time.
    EachFrame,
    /// After the last frame: no decision reaches the kernel in time. It then hands on more, which says the same.
    Whole,
}

/// The kernel half on the watched end of a wire.
pub struct Live {
    hooks: Hooks,
    watch: Watch,
    kernel: Kernel,
    wire: Wire,
    /// Frames sent so far.
    pub frames: u64,
    /// Held for its `Drop`.
    _attached: Attached,
    /// The wire is in it.
    _namespace: Namespace,
}

/// What the kernel half should have counted beside what the native half has.
#[derive(Default)]
struct Expected {
    xdp_skips: [u64; Skip::COUNT],
    /// Bytes of VLAN tags, which the kernel takes off before TC counts, by [`PacketCount::index`].
    tags: std::collections::HashMap<u32, u64>,
}

impl Live {
    /// Loads and attaches.
    pub fn new(hooks: Hooks) -> Result<Self> {
        let namespace = Namespace::new()?;
        let wire = Wire::new(&namespace)?;
        let watch = Watch::new(&settings(), &[]);
        let mut kernel = Kernel::of(KernelHalf::load_with(false)?, &watch)?;
        let policy =
            Policy { xdp_generic: hooks.xdp() == Some(AttachMode::Generic), tcx: hooks.tc() == AttachMode::Tcx };
        let mut interface = wire.interface.clone();
        // What keeps it from the native way, and from any.
        interface.loopback = hooks.xdp() == Some(AttachMode::Generic);
        interface.xdp_program = hooks.xdp().is_none().then_some(1);
        let attached = namespace.run(|| Attached::new(&mut kernel.half, &interface, policy));
        let attached = attached.map_err(|refusal| anyhow::anyhow!(refusal.words))?;
        ensure!(attached.xdp().ok() == hooks.xdp(), "XDP: {:?}", attached.xdp());
        ensure!(attached.tc() == hooks.tc(), "TC: {:?}", attached.tc());
        kernel.counted()?;
        Ok(Self { hooks, watch, kernel, wire, frames: 0, _attached: attached, _namespace: namespace })
    }

    /// Sends a capture and says where lines or counters differ from those of its replay.
    pub fn compare(&mut self, capture: &Labelled, pace: Pace) -> Result<Vec<String>> {
        let native = replayed(&[&capture.path], &without_discovery(capture))?;
        let mut expected = Expected::default();
        let lines = self.live(capture, pace, &mut expected)?;
        let counts = self.kernel.counted()?;
        let mut wrong = match pace {
            Pace::EachFrame => different_lines(&native.events, &lines),
            Pace::Whole => different_lines(&sorted(&native.events), &sorted(&lines)),
        };
        let markers = self.wire.take_markers();
        for reason in LossReason::ALL {
            differs(&mut wrong, format_args!("lost, {}", reason.label()), 0, counts.lost(*reason));
        }
        self.compare_packets(&native, &expected, &counts, &mut wrong);
        if pace == Pace::EachFrame {
            compare_skips(&native, &counts, markers, &mut wrong);
            let [events, told] = [&native.counts.events, &counts.events];
            for event in KernelEvent::ALL {
                let at = *event as usize;
                differs(&mut wrong, format_args!("{}", event.label()), events[at], told[at]);
            }
        }
        for (skip, count) in Skip::ALL.iter().zip(expected.xdp_skips) {
            let markers = if *skip == Skip::NotIp { markers } else { 0 };
            let expected = if self.hooks.xdp().is_some() { count + markers } else { 0 };
            let got = counts.skips[Hook::Xdp as usize][*skip as usize];
            differs(&mut wrong, format_args!("XDP left alone, {}", skip.label()), expected, got);
        }
        Ok(wrong)
    }

    fn compare_packets(&self, native: &Replayed, expected: &Expected, counts: &Counts, wrong: &mut Vec<String>) {
        for (index, (native, got)) in native.counts.packets.iter().zip(&counts.packets).enumerate() {
            let index = index as u32;
            let tags = expected.tags.get(&index).filter(|_| self.hooks.xdp().is_none()).copied().unwrap_or(0);
            let series = series(index);
            differs(wrong, format_args!("packets, {series}"), native.packets, got.packets);
            differs(wrong, format_args!("bytes, {series}"), native.bytes - tags, got.bytes);
        }
    }

    /// Sends a capture; the lines that come of it.
    fn live(&mut self, capture: &Labelled, pace: Pace, expected: &mut Expected) -> Result<Vec<String>> {
        let mut pipeline = Pipeline::new(
            Classifier::new(&without_discovery(capture)),
            Arc::new(Metrics::new()),
            Box::new(|_| None),
            Duration::ZERO,
        );
        let mut lines = Vec::new();
        let mut sink = |event: Event<'_>| lines.push(line(&event));
        let mut keys = std::collections::HashSet::new();
        let mut file = Capture::open(&capture.path)?;
        while let Some(frame) = file.next_frame()? {
            let (side, key) = self.expect(frame.bytes, expected);
            keys.extend(key);
            self.wire.send(side, frame.bytes)?;
            self.frames += 1;
            if pace == Pace::EachFrame {
                self.wire.settle()?;
                pipeline.sweep(frame.time, &mut sink);
                for mut record in self.kernel.drain() {
                    record.header.time = frame.time;
                    self.take(&record, &mut pipeline, &mut sink)?;
                }
            }
        }
        self.wire.settle()?;
        for record in self.kernel.drain() {
            self.take(&record, &mut pipeline, &mut sink)?;
        }
        pipeline.finish(&mut sink);
        for key in keys {
            self.kernel.forget(&key)?;
        }
        Ok(lines)
    }

    fn take(&mut self, record: &Record, pipeline: &mut Pipeline, sink: &mut impl FnMut(Event<'_>)) -> Result<()> {
        let record = receive::Record { header: record.header, bytes: &record.bytes };
        match pipeline.record(&record, sink) {
            Some(said) => self.kernel.decide(&said.key, Verdict::new(said.born, said.decision)),
            None => Ok(()),
        }
    }

    /// Which way this frame goes and whose it is, and what XDP should make of it.
    fn expect(&self, frame: &[u8], expected: &mut Expected) -> (Side, Option<FlowKey>) {
        let mut key = FlowKey { client: [0; 16], server: [0; 16], client_port: 0, server_port: 0 };
        let mut ports = Ports(&self.watch);
        match selected(frame, &mut ports, &mut key) {
            Ok(watched) => {
                let tagged = matches!(frame.get(12..14), Some([0x81, 0] | [0x88, 0xa8]));
                if tagged && watched.side == Side::Client {
                    let source = self.watch.source(&watched.key.client);
                    // The first of them.
                    *expected.tags.entry(PacketCount::index(watched.role, source, watched.kind())).or_default() += 4;
                }
                (watched.side, Some(*watched.key))
            }
            Err(skip) => {
                expected.xdp_skips[skip as usize] += 1;
                (Side::Client, None)
            }
        }
    }
}

/// What a port that was discovered once does to later captures is no matter here.
fn without_discovery(capture: &Labelled) -> Settings {
    Settings { discover_plaintext: OnOff::Off, ..capture.settings() }
}

/// Sends a capture over this wire.
pub fn send(wire: &mut Wire, capture: &Labelled) -> Result<()> {
    // Which way a frame goes has nothing to do with what is watched.
    let watch = Watch::new(&settings(), &[]);
    let mut key = FlowKey { client: [0; 16], server: [0; 16], client_port: 0, server_port: 0 };
    let mut file = Capture::open(&capture.path)?;
    while let Some(frame) = file.next_frame()? {
        let side = selected(frame.bytes, &mut Ports(&watch), &mut key).map_or(Side::Client, |watched| watched.side);
        wire.send(side, frame.bytes)?;
    }
    wire.settle().context("the last frames")
}

fn selected<'key>(frame: &[u8], ports: &mut Ports<'_>, key: &'key mut FlowKey) -> Result<Watched<'key>, Skip> {
    let segment = parse_ethernet(frame)?;
    select(frame, &segment, ports, key)
}

/// An event's line without its time.
pub fn without_time(line: &str) -> String {
    let mut event: serde_json::Value = serde_json::from_str(line).expect("a line of JSON");
    let fields = event.as_object_mut().expect("an object");
    fields.remove("time");
    fields.remove("interface");
    event.to_string()
}

fn sorted(lines: &[String]) -> Vec<String> {
    let mut lines: Vec<String> = lines.iter().map(|line| without_time(line)).collect();
    lines.sort();
    lines
}

fn different_lines(native: &[String], live: &[String]) -> Vec<String> {
    let missing =
        native.iter().filter(|line| !live.contains(line)).map(|line| format!("replay alone says {}", line.trim()));
    let more = live.iter().filter(|line| !native.contains(line)).map(|line| format!("live alone says {}", line.trim()));
    let mut different: Vec<String> = missing.chain(more).collect();
    if different.is_empty() && native != live {
        different.push(format!("the same {} and {} lines, otherwise ordered or repeated", native.len(), live.len()));
    }
    different
}

fn compare_skips(native: &Replayed, counts: &Counts, markers: u64, wrong: &mut Vec<String>) {
    for skip in Skip::ALL {
        let markers = if *skip == Skip::NotIp { markers } else { 0 };
        let native = native.counts.skips[Hook::Tc as usize][*skip as usize] + markers;
        let got = counts.skips[Hook::Tc as usize][*skip as usize];
        differs(wrong, format_args!("TC left alone, {}", skip.label()), native, got);
    }
}

fn differs(wrong: &mut Vec<String>, what: std::fmt::Arguments<'_>, native: u64, live: u64) {
    if native != live {
        wrong.push(format!("{what}: replay {native}, live {live}"));
    }
}

/// The words of [`PacketCount::index`].
fn series(index: u32) -> String {
    let kinds = monitor_common::PacketKind::ALL;
    for role in Role::ALL {
        for source in SourceClass::ALL {
            for kind in kinds {
                if PacketCount::index(*role, *source, *kind) == index {
                    return format!("{} {} {}", role.label(), source.label(), kind.label());
                }
            }
        }
    }
    index.to_string()
}

/// The tables that `select` asks.
struct Ports<'a>(&'a Watch);

impl Tables for Ports<'_> {
    type Place = ();

    fn now(&self) -> u64 {
        0
    }

    fn role(&self, port: u16) -> Option<Role> {
        self.0.role(port)
    }

    fn source(&self, address: &[u8; 16]) -> SourceClass {
        self.0.source(address)
    }

    fn handshake(&mut self, _index: u32) -> Option<&mut Handshake> {
        None
    }

    fn find(&mut self, _key: &FlowKey) -> Option<()> {
        None
    }

    fn flow(&mut self, (): ()) -> Option<&mut FlowState> {
        None
    }

    fn room(&mut self) -> Option<&mut FlowState> {
        None
    }

    fn begin(&mut self, _key: &FlowKey) -> bool {
        false
    }

    fn take_verdict(&mut self, _key: &FlowKey) -> Option<Verdict> {
        None
    }
}
