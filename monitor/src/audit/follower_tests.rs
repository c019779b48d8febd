use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::time::SystemTime;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

/// A log, whoever writes it, and whoever follows it.
struct World {
    folder: TempDir,
    writer: File,
    follower: Follower,
    now: Duration,
    written: u64,
    rotations: u64,
    lines: u64,
    read: Vec<u64>,
    other: usize,
    changes: Vec<Change>,
}

impl World {
    /// A log with one line, followed from its end.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let writer = append(&path);
        let mut world = Self {
            follower: Follower::new(path, None),
            folder,
            writer,
            now: Duration::ZERO,
            written: 0,
            rotations: 0,
            lines: 0,
            read: Vec::new(),
            other: 0,
            changes: Vec::new(),
        };
        world.write(b"{\"kind\":\"Event\",\"apiVersion\":\"audit.k8s.io/v1\",\"before\":true}\n");
        world.turns();
        world
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("audit.log")
    }

    fn write(&mut self, bytes: &[u8]) {
        self.writer.write_all(bytes).unwrap();
        self.touch(&self.writer.try_clone().unwrap());
    }

    /// Files are told by the time of their last write, and the kernel's clock is too coarse for a test.
    fn touch(&mut self, file: &File) {
        self.written += 1;
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + self.written)).unwrap();
    }

    /// The next line, longer than what a position is known by now and then. It begins and ends with what no other has,
    /// as an event does with its id and its times.
    fn line(&mut self) -> Vec<u8> {
        self.lines += 1;
        let padding = "x".repeat(if self.lines.is_multiple_of(5) { 3_000 } else { 10 });
        let (start, number) = ("{\"kind\":\"Event\",\"apiVersion\":\"audit.k8s.io/v1\"", self.lines);
        format!("{start},\"id\":{number},\"padding\":\"{padding}\",\"line\":{number}}}\n").into_bytes()
    }

    fn write_line(&mut self) {
        let line = self.line();
        self.write(&line);
    }

    fn rotate_by_rename(&mut self) {
        self.rotations += 1;
        let to = self.folder.path().join(format!("audit-{}.log", self.rotations));
        fs::rename(self.path(), to).unwrap();
        self.make();
    }

    /// The log is made anew.
    fn make(&mut self) {
        self.writer = append(&self.path());
        self.touch(&self.writer.try_clone().unwrap());
    }

    fn rotate_by_copy(&mut self) {
        for number in (1..=self.rotations).rev() {
            let name = |number: u64| self.folder.path().join(format!("audit.log.{number}"));
            let _ = fs::rename(name(number), name(number + 1));
        }
        self.rotations += 1;
        let copy = self.folder.path().join("audit.log.1");
        fs::copy(self.path(), &copy).unwrap();
        self.touch(&File::options().write(true).open(copy).unwrap());
        self.writer.set_len(0).unwrap();
        self.touch(&self.writer.try_clone().unwrap());
    }

    fn restart(&mut self) {
        let state = self.folder.path().join("audit.state");
        self.follower.kept(vec![]).unwrap().store(&state).unwrap();
        self.follower = Follower::new(self.path(), Position::load(&state).unwrap());
    }

    fn turn(&mut self) -> Turn {
        self.now += Duration::from_millis(250);
        let Self { follower, read, other, .. } = self;
        let turn = follower.turn(self.now, &mut |line| {
            let number = |line: Line<'_>| {
                let Line::Whole(bytes) = line else { return None };
                serde_json::from_slice::<serde_json::Value>(bytes).ok()?.get("line")?.as_u64()
            };
            match number(line) {
                Some(number) => read.push(number),
                None => *other += 1,
            }
        });
        self.changes.extend(&turn.changes);
        turn
    }

    fn turns(&mut self) {
        while self.turn().more {}
    }

    /// Every line was read, each once, and nothing else was.
    fn is_read(&mut self) {
        self.turns();
        self.read.sort_unstable();
        assert_eq!(self.read, (1..=self.lines).collect::<Vec<_>>(), "{:?}", self.changes);
        assert_eq!(self.other, 0);
        assert!(!self.changes.contains(&Change::RestLost), "{:?}", self.changes);
    }
}

fn append(path: &Path) -> File {
    OpenOptions::new().create(true).append(true).open(path).unwrap()
}

#[test]
fn from_the_end_of_what_is_there() {
    let mut world = World::new();
    assert_eq!(world.changes, [Change::FromEnd]);
    world.is_read();
    world.write_line();
    world.is_read();
}

#[test]
fn a_line_that_is_being_written_at_the_first_look_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let mut writer = append(&path);
    writer.write_all(b"{\"half\":").unwrap();
    let mut follower = Follower::new(path, None);
    let mut lines = Vec::new();
    let mut turn = |follower: &mut Follower| {
        follower.turn(Duration::ZERO, &mut |line| lines.push(format!("{line:?}")));
    };
    turn(&mut follower);
    writer.write_all(b"true}\n{\"whole\"").unwrap();
    turn(&mut follower);
    writer.write_all(b":1}\n").unwrap();
    turn(&mut follower);
    assert_eq!(lines, [format!("{:?}", Line::Whole(b"{\"whole\":1}"))]);
}

#[test]
fn from_the_start_of_what_comes_later() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let mut follower = Follower::new(path.clone(), None);
    let turn = follower.turn(Duration::ZERO, &mut |_| panic!("there is nothing"));
    assert_eq!((turn.trouble, turn.changes), (Some(Trouble::Missing), vec![]));
    assert_eq!(follower.kept(vec![]), None);
    append(&path).write_all(b"one\n").unwrap();
    let mut lines = 0;
    let turn = follower.turn(Duration::ZERO, &mut |_| lines += 1);
    assert_eq!((turn.trouble, turn.changes, lines), (None, vec![Change::FromStart], 1));
}

#[test]
fn what_is_no_file_is_named_and_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    fs::create_dir(&path).unwrap();
    let mut follower = Follower::new(path.clone(), None);
    let mut turn = || follower.turn(Duration::ZERO, &mut |_| {});
    assert_eq!(turn().trouble, Some(Trouble::NoFile));
    fs::remove_dir(&path).unwrap();
    // A pipe would have whoever opens it wait.
    let name = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    // SAFETY: the name is a string that ends with zero and lives until the call returns.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    assert_eq!(turn().trouble, Some(Trouble::NoFile));
    fs::remove_file(&path).unwrap();
    assert_eq!(turn().trouble, Some(Trouble::Missing));
    fs::write(&path, "one\n").unwrap();
    assert_eq!(turn().trouble, None);
    let refused = Trouble::from(io::Error::from(io::ErrorKind::PermissionDenied));
    assert_eq!(refused, Trouble::NotPermitted);
}

#[test]
fn gone_is_told_after_a_while_and_a_new_one_is_read_from_its_start() {
    let mut world = World::new();
    fs::remove_file(world.path()).unwrap();
    assert_eq!(world.turn().trouble, None, "a rotation has a moment without the file");
    // Whoever has it open writes on.
    world.write_line();
    for _ in 0..9 {
        world.turn();
    }
    assert_eq!(world.turn().trouble, Some(Trouble::Missing));
    world.write_line();
    world.turn();
    world.make();
    world.write_line();
    assert_eq!(world.turn().trouble, None);
    world.is_read();
}

#[test]
fn a_writer_that_was_not_told_of_the_rotation_is_read_on() {
    let mut world = World::new();
    let mut late = world.writer.try_clone().unwrap();
    world.rotate_by_rename();
    world.write_line();
    world.turns();
    let line = world.line();
    late.write_all(&line[..7]).unwrap();
    world.turns();
    late.write_all(&line[7..]).unwrap();
    world.is_read();
    // A last line has no end when the file has one.
    let line = world.line();
    late.write_all(&line[..line.len() - 1]).unwrap();
    for _ in 0..42 {
        world.turn();
    }
    world.is_read();
    assert!(world.follower.left.files.is_empty(), "it is not kept open for ever");
}

#[test]
fn a_log_that_was_cut_without_a_copy_is_read_anew_and_that_is_told() {
    let mut world = World::new();
    world.write_line();
    world.turns();
    world.writer.set_len(0).unwrap();
    world.write_line();
    world.turns();
    assert_eq!(world.read, [1, 2]);
    assert_eq!(world.changes, [Change::FromEnd, Change::RestLost]);
}

#[test]
fn a_log_that_grew_past_the_position_after_it_was_cut() {
    let mut world = World::new();
    world.write_line();
    world.turns();
    world.write_line();
    world.rotate_by_copy();
    for _ in 0..20 {
        world.write_line();
    }
    world.is_read();
}

#[test]
fn several_rotations_between_two_looks() {
    for restart in [false, true] {
        for by_copy in [false, true] {
            let mut world = World::new();
            world.write_line();
            world.turns();
            for _ in 0..4 {
                world.write_line();
                if by_copy {
                    world.rotate_by_copy()
                } else {
                    world.rotate_by_rename()
                }
                world.write_line();
            }
            // Files of others, which the names do not tell from rotated ones.
            fs::write(world.folder.path().join("audit.log.pos"), "12\n").unwrap();
            fs::copy(world.path(), world.folder.path().join("audit.log.bak")).unwrap();
            if restart {
                world.restart();
            }
            world.is_read();
        }
    }
}

#[test]
fn a_position_that_is_nowhere_any_more_begins_anew_and_that_is_told() {
    let mut world = World::new();
    world.write_line();
    world.turns();
    fs::remove_file(world.path()).unwrap();
    world.make();
    world.write_line();
    world.restart();
    world.turns();
    assert_eq!(world.read, [1, 2]);
    assert_eq!(world.changes, [Change::FromEnd, Change::RestLost]);
}

#[test]
fn more_than_a_turn_is_read_in_several() {
    let mut world = World::new();
    let mut lines = 0;
    while world.writer.metadata().unwrap().len() < 3 * TURN as u64 {
        world.write_line();
        lines += 1;
    }
    assert!(world.turn().more);
    assert!(world.read.len() < lines / 2, "{} of {lines}", world.read.len());
    world.restart();
    world.is_read();
}

/// What may happen to a log.
#[derive(Clone, Debug)]
enum Step {
    /// A line is written, in pieces, with a look after each.
    Line(Vec<prop::sample::Index>),
    /// A line is written at once.
    Lines(u8),
    Rename,
    Copy,
    Turn,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => proptest::collection::vec(any::<prop::sample::Index>(), 0..4).prop_map(Step::Line),
        3 => (1..4_u8).prop_map(Step::Lines),
        2 => Just(Step::Rename),
        2 => Just(Step::Copy),
        2 => Just(Step::Turn),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn whatever_happens_each_line_is_read_once(steps in proptest::collection::vec(step(), 0..24)) {
        let mut world = World::new();
        for step in steps {
            match step {
                Step::Line(cuts) => {
                    let line = world.line();
                    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(line.len())).collect();
                    cuts.sort_unstable();
                    cuts.push(line.len());
                    let mut from = 0;
                    for cut in cuts {
                        world.write(&line[from..cut]);
                        world.turn();
                        from = cut;
                    }
                }
                Step::Lines(count) => (0..count).for_each(|_| world.write_line()),
                Step::Rename => world.rotate_by_rename(),
                Step::Copy => {
                    // A file of which nothing was read looks the same before and after.
                    world.write_line();
                    world.turns();
                    world.write_line();
                    world.rotate_by_copy();
                }
                Step::Turn => { world.turn(); }
                Step::Restart => world.restart(),
            }
        }
        world.is_read();
    }
}
