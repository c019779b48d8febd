//! Tests of the search in binaries: made here byte by byte, and by Go where it is there.

use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::process::Command;

use proptest::prelude::*;

use super::*;

const ANONYMOUS: &str = "k8s.io/apiserver@v0.37.2/pkg/authentication/request/anonymous/anonymous.go";
/// cmp rsp, [r14+0x10]; jbe; push rbp; ret; int3 and so on.
const CODE_BYTES: [u8; 32] = {
    let mut code = [0xcc; 32];
    let start = [0x49, 0x3b, 0x66, 0x10, 0x76, 0x05, 0x55, 0x5d, 0xc3];
    let mut index = 0;
    while index < start.len() {
        code[index] = start[index];
        index += 1;
    }
    code
};
const TEXT: u64 = 0x40_1000;
/// Where the code stands in the file, other than in memory.
const TEXT_OFFSET: u64 = 0x140;

/// A binary with the sections that matter.
struct Binary {
    machine: u16,
    magic: u32,
    /// `text` in the header of the line table (before Go 1.26) or in `.go.module` (from then on).
    text_in_header: bool,
    version: &'static str,
    functions: Vec<(&'static str, &'static str)>,
}

impl Default for Binary {
    fn default() -> Self {
        Self {
            machine: object::elf::EM_X86_64,
            magic: 0xffff_fff1,
            text_in_header: false,
            version: "go1.26.8",
            functions: vec![
                ("main.main", "main.go"),
                (METHOD, "other/file.go"),
                (METHOD, ANONYMOUS),
                ("k8s.io/apiserver/pkg/authentication/request/anonymous.New", ANONYMOUS),
            ],
        }
    }
}

impl Binary {
    fn bytes(&self) -> Vec<u8> {
        let mut module = vec![0; 23 * 8];
        if !self.text_in_header {
            module[22 * 8..].copy_from_slice(&TEXT.to_le_bytes());
        }
        let mut information = b"\xff Go buildinf:\x08\x02".to_vec();
        information.resize(32, 0);
        information.push(self.version.len() as u8);
        information.extend(self.version.as_bytes());
        let code = CODE_BYTES.repeat(self.functions.len());
        let sections: [(&str, u64, Vec<u8>); 4] = [
            (".text", TEXT, code),
            (".gopclntab", 0x50_0000, self.line_table()),
            (".go.buildinfo", 0x60_0000, information),
            (".go.module", 0x70_0000, module),
        ];
        let mut names = vec![0];
        let mut bytes = vec![0; TEXT_OFFSET as usize];
        let mut headers = vec![0; 64];
        for (name, address, content) in &sections {
            section_header(&mut headers, names.len(), 1, *address, bytes.len(), content.len());
            names.extend(name.as_bytes());
            names.push(0);
            bytes.extend(content);
            bytes.resize(bytes.len().next_multiple_of(16), 0);
        }
        section_header(&mut headers, names.len(), 3, 0, bytes.len(), names.len() + 10);
        names.extend(b".shstrtab\0");
        bytes.extend(names);
        bytes.resize(bytes.len().next_multiple_of(16), 0);
        let table = bytes.len() as u64;
        bytes.extend(headers);

        let mut head = b"\x7fELF\x02\x01\x01".to_vec();
        head.resize(16, 0);
        head.extend(2_u16.to_le_bytes());
        head.extend(self.machine.to_le_bytes());
        head.extend(1_u32.to_le_bytes());
        for word in [TEXT, 64, table] {
            head.extend(word.to_le_bytes());
        }
        head.extend(0_u32.to_le_bytes());
        for half in [64_u16, 56, 1, 64, sections.len() as u16 + 2, sections.len() as u16 + 1] {
            head.extend(half.to_le_bytes());
        }
        // The one segment: readable and executable code.
        head.extend(1_u32.to_le_bytes());
        head.extend(5_u32.to_le_bytes());
        for word in [TEXT_OFFSET, TEXT, TEXT, 0x1000, 0x1000, 0x1000] {
            head.extend(word.to_le_bytes());
        }
        bytes[..head.len()].copy_from_slice(&head);
        bytes
    }

    fn line_table(&self) -> Vec<u8> {
        let (mut names, mut units, mut files) = (vec![0], Vec::new(), Vec::new());
        let (mut values, mut addresses, mut entries) = (vec![0], Vec::new(), Vec::new());
        let count = self.functions.len();
        let base = count * 8 + 4;
        for (index, (name, file)) in self.functions.iter().enumerate() {
            let start = (index * CODE_BYTES.len()) as u32;
            addresses.extend(start.to_le_bytes());
            addresses.extend(((base + entries.len()) as u32).to_le_bytes());
            // entryOff, nameOff, args, deferreturn, pcsp, pcfile, pcln, npcdata, cuOffset, startLine, the rest
            for word in [start, names.len() as u32, 0, 0, 0, values.len() as u32, 0, 0, 0, 0, 0] {
                entries.extend(u32::to_le_bytes(word));
            }
            names.extend(name.as_bytes());
            names.push(0);
            // The difference to -1, zigzag; then that of the address, then the end.
            values.extend([2 * (index as u8 + 1), CODE_BYTES.len() as u8, 0]);
            units.extend((files.len() as u32).to_le_bytes());
            files.extend(file.as_bytes());
            files.push(0);
        }
        addresses.extend(((count * CODE_BYTES.len()) as u32).to_le_bytes());
        let mut table = self.magic.to_le_bytes().to_vec();
        table.extend([0, 0, 1, 8]);
        let mut at = 72;
        let parts = [names, units, files, values, [addresses, entries].concat()];
        let text = if self.text_in_header { TEXT } else { 0 };
        for word in [count as u64, count as u64, text] {
            table.extend(word.to_le_bytes());
        }
        for part in &parts {
            table.extend((at as u64).to_le_bytes());
            at += part.len();
        }
        table.extend(parts.concat());
        table
    }
}

fn section_header(headers: &mut Vec<u8>, name: usize, kind: u32, address: u64, offset: usize, size: usize) {
    headers.extend((name as u32).to_le_bytes());
    headers.extend(kind.to_le_bytes());
    for word in [2, address, offset as u64, size as u64] {
        headers.extend(word.to_le_bytes());
    }
    headers.extend([0; 8]);
    headers.extend(1_u64.to_le_bytes());
    headers.extend(0_u64.to_le_bytes());
}

fn find(bytes: &[u8]) -> Result<Authenticator, BinaryError> {
    Authenticator::find(&mut Cursor::new(bytes))
}

fn words(bytes: &[u8]) -> String {
    let words = find(bytes).expect_err("not a binary to probe").to_string();
    assert!(!words.contains('\n'), "{words}");
    words
}

#[test]
fn the_function_is_the_one_with_the_right_name_in_the_right_file() {
    let found = find(&Binary::default().bytes()).expect("found");
    let start = TEXT_OFFSET + 2 * 32;
    let point = Point { name: METHOD.to_owned(), form: Form::Method, entry: start + 6, returns: vec![start + 8] };
    assert_eq!((found.points, found.go_version.as_str()), (vec![point], "go1.26.8"));
}

#[test]
fn every_match_is_probed_and_closures_take_the_request_first() {
    let functions = vec![
        ("k8s.io/kubernetes/pkg/kubeapiserver/authenticator.Config.New.NewAuthenticator.func2", ANONYMOUS),
        ("k8s.io/kubernetes/pkg/kubeapiserver/authenticator.Config.New.NewAuthenticator.func12", ANONYMOUS),
        ("k8s.io/kubernetes/pkg/kubeapiserver/authenticator.Config.New.NewAuthenticator.func2.1", ANONYMOUS),
        (
            "k8s.io/kubernetes/vendor/k8s.io/apiserver/pkg/authentication/request/anonymous.NewAuthenticator.func1",
            ANONYMOUS,
        ),
        ("k8s.io/apiserver/pkg/authentication/request/x509.NewAuthenticator.func1", "x509.go"),
    ];
    let old = Binary { magic: 0xffff_fff0, text_in_header: true, version: "go1.19.8", functions, ..Binary::default() };
    let points = find(&old.bytes()).expect("found").points;
    let entries: Vec<u64> = points.iter().map(|point| (point.entry - 6 - TEXT_OFFSET) / 32).collect();
    assert_eq!(entries, [0, 1, 3]);
    assert!(points.iter().all(|point| point.form == Form::Closure));
    assert_eq!(form(&format!("{VENDOR}{METHOD}")), Some(Form::Method));
    assert_eq!(form(&format!("{METHOD}-fm")), None);
    assert_eq!(form("NewAuthenticator.func"), None);
}

#[test]
fn what_cannot_be_probed_is_named() {
    let good = Binary::default();
    let without = |name: &str| {
        let bytes = good.bytes();
        let at = bytes.windows(name.len()).position(|window| window == name.as_bytes()).expect("named");
        [&bytes[..at], b".gone", &bytes[at + 5..]].concat()
    };
    let mut sectionless = good.bytes();
    sectionless[0x28..0x30].fill(0);
    sectionless[0x3a..0x40].fill(0);
    let table: [(&str, Vec<u8>, &str); 11] = [
        ("empty", Vec::new(), "no 64-bit ELF"),
        ("a script", b"#!/bin/sh\nexec kube-apiserver\n".to_vec(), "no 64-bit ELF"),
        ("32 bits", [b"\x7fELF\x01\x01\x01".to_vec(), vec![0; 64]].concat(), "no 64-bit ELF"),
        ("s390x", Binary { machine: object::elf::EM_S390, ..Binary::default() }.bytes(), "another machine"),
        ("packed", sectionless, "no section table"),
        ("C", without(".gopclntab"), "no Go program: it has no section .gopclntab"),
        ("no information", without(".go.buildinfo"), "no section .go.buildinfo"),
        ("Go 1.16", Binary { magic: 0xffff_fffa, ..Binary::default() }.bytes(), "0xfffffffa"),
        ("Go to come", Binary { version: "go1.99", ..Binary::default() }.bytes(), "made with go1.99"),
        (
            "a kubelet",
            Binary { functions: vec![("main.main", "main.go")], ..Binary::default() }.bytes(),
            "no anonymous",
        ),
        ("no functions", Binary { functions: vec![], ..Binary::default() }.bytes(), "damaged: the number of functions"),
    ];
    for (what, bytes, expected) in table {
        let words = words(&bytes);
        assert!(words.contains(expected), "{what}: {words}");
    }
}

#[test]
fn every_prefix_is_refused() {
    let bytes = Binary::default().bytes();
    // The last section header is the names' own; its last bytes say nothing that is needed.
    for length in 0..bytes.len() - 64 {
        assert!(find(&bytes[..length]).is_err(), "{length}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_024, ..ProptestConfig::default() })]

    /// Whatever is changed in a binary, the answer is an answer.
    #[test]
    fn mutations_never_panic(changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12)) {
        let mut bytes = Binary::default().bytes();
        for (index, value) in changes {
            let at = index.index(bytes.len());
            bytes[at] = value;
        }
        if let Err(error) = find(&bytes) {
            prop_assert!(!error.to_string().is_empty());
        }
    }

    /// As above, in the header and the offsets of the line table, where a change does the most.
    #[test]
    fn mutated_offsets_never_panic(changes in proptest::collection::vec((0..46_usize, any::<u32>(), 0..32_u32), 1..4)) {
        let binary = Binary::default();
        let mut bytes = binary.bytes();
        let start = bytes.windows(4).position(|window| window == binary.magic.to_le_bytes()).unwrap_or_default();
        for (word, value, shift) in changes {
            let at = start + 4 + word * 4;
            bytes[at..at + 4].copy_from_slice(&(value >> shift).to_le_bytes());
        }
        let _ = find(&bytes);
    }

    #[test]
    fn noise_never_panics(noise in proptest::collection::vec(any::<u8>(), 0..2_048)) {
        prop_assert!(find(&noise).is_err());
        let _ = find(&[b"\x7fELF\x02\x01\x01".to_vec(), noise].concat());
    }
}

/// Both forms, with a receiver and requests that go the way of the API server's.
const PROGRAM: &str = r#"package anonymous

type Request struct{ Path string }
type Requests interface{ AuthenticateRequest(request *Request) (*string, bool, error) }
type Authenticator struct{ paths map[string]bool }

func (a *Authenticator) AuthenticateRequest(request *Request) (*string, bool, error) {
	if len(a.paths) > 0 && !a.paths[request.Path] {
		return nil, false, nil
	}
	user := "system:anonymous" + request.Path
	return &user, true, nil
}

type function func(request *Request) (*string, bool, error)

func (f function) AuthenticateRequest(request *Request) (*string, bool, error) { return f(request) }

//go:noinline
func NewAuthenticator() Requests {
	return function(func(request *Request) (*string, bool, error) {
		user := "system:anonymous" + request.Path
		return &user, true, nil
	})
}
"#;
const MAIN: &str = r#"package main

import "k8s.io/apiserver/pkg/authentication/request/anonymous"

func main() {
	for _, one := range []anonymous.Requests{&anonymous.Authenticator{}, anonymous.NewAuthenticator()} {
		user, _, _ := one.AuthenticateRequest(&anonymous.Request{Path: "/livez"})
		println(*user)
	}
}
"#;

/// Builds the program, stripped; `None` where there is no Go.
fn build(folder: &Path, architecture: &str) -> Option<PathBuf> {
    let package = folder.join("pkg/authentication/request/anonymous");
    std::fs::create_dir_all(&package).expect("folder");
    std::fs::write(folder.join("go.mod"), "module k8s.io/apiserver\n\ngo 1.18\n").expect("go.mod");
    std::fs::write(package.join("anonymous.go"), PROGRAM).expect("anonymous.go");
    std::fs::write(folder.join("main.go"), MAIN).expect("main.go");
    let binary = folder.join(architecture);
    let built = Command::new("go")
        .args(["build", "-trimpath", "-ldflags", "-s -w", "-o"])
        .arg(&binary)
        .arg(".")
        .current_dir(folder)
        .envs([("GOARCH", architecture), ("GOOS", "linux"), ("CGO_ENABLED", "0"), ("GOFLAGS", "")])
        .output();
    match built {
        Ok(output) => {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            Some(binary)
        }
        Err(error) => {
            eprintln!("skipped: go cannot be run: {error}");
            None
        }
    }
}

#[test]
fn stripped_binaries_of_go_are_understood() {
    let folder = tempfile::tempdir().expect("folder");
    for (architecture, machine) in [("amd64", Machine::X86_64), ("arm64", Machine::Arm64)] {
        let Some(binary) = build(folder.path(), architecture) else { return };
        let mut file = std::fs::File::open(binary).expect("opened");
        let found = Authenticator::find(&mut file).expect("found");
        assert_eq!(found.machine, machine);
        let forms: Vec<Form> = found.points.iter().map(|point| point.form).collect();
        assert_eq!(forms.iter().filter(|form| **form == Form::Method).count(), 1, "{found:?}");
        assert_eq!(forms.iter().filter(|form| **form == Form::Closure).count(), 1, "{found:?}");
        for point in &found.points {
            assert!(!point.returns.is_empty(), "{point:?}");
            let mut code = [0; 4];
            std::os::unix::fs::FileExt::read_exact_at(&file, &mut code, point.entry).expect("code");
            match machine {
                // push rbp
                Machine::X86_64 => assert_eq!(code[0], 0x55, "{point:?}"),
                // str x30, [sp, #-size]!
                Machine::Arm64 => assert_eq!(u32::from_le_bytes(code) & 0xffe0_0fff, 0xf800_0ffe, "{point:?}"),
            }
        }
    }
}
