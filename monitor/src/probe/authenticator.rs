//! Where in an API server's binary a request is found to be anonymous.
//!
//! The API server asks its authenticators one after the other; the anonymous one is the last, and is asked only when
//! none of the others found a credential and none found a wrong one (k8s.io/apiserver's union.NewFailOnError). So each
//! call of it is one request without a credential.

use std::io::{Read, Seek};

use super::elf::{BinaryError, Elf, Machine, Region, Window};
use super::gopclntab::{Function, LineTable};
use super::layout::{RequestLayout, go_version, layout};
use super::prologue;

/// End of the file's name, in all releases and however modules are laid out.
const FILE: &str = "/authentication/request/anonymous/anonymous.go";
/// The method, in Kubernetes 1.31 and later.
const METHOD: &str = "k8s.io/apiserver/pkg/authentication/request/anonymous.(*Authenticator).AuthenticateRequest";
/// What stands before it where Kubernetes' own build vendors its modules.
const VENDOR: &str = "k8s.io/kubernetes/vendor/";
/// The closure in earlier releases; digits follow.
const CLOSURE: &str = "NewAuthenticator.func";

/// Bytes of a function's code that are looked at; the authenticator has a few hundred.
const CODE: u64 = 16 << 10;

/// In which register the request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// A method: the receiver is the first argument, the request the second. Conditions on paths are in the receiver.
    Method,
    /// A closure: the request is the first argument. Such releases know no conditions.
    Closure,
}

/// A function that is to be probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point {
    /// Its name.
    pub name: String,
    /// How it takes its arguments.
    pub form: Form,
    /// Offset in the file where its entry is probed.
    pub entry: u64,
    /// Offsets in the file of its returns; empty where its code is not understood.
    pub returns: Vec<u64>,
}

/// What is known of an API server's binary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authenticator {
    /// The machine that it is made for.
    pub machine: Machine,
    /// The Go release that it was made with.
    pub go_version: String,
    /// Where that release keeps what is read.
    pub layout: RequestLayout,
    /// Every function that has to be probed; at least one.
    pub points: Vec<Point>,
}

impl Authenticator {
    /// Finds it in a binary.
    ///
    /// # Errors
    /// The binary cannot be read, is none that the probe knows, or has no anonymous authenticator.
    pub fn find<R: Read + Seek>(reader: &mut R) -> Result<Self, BinaryError> {
        let elf = Elf::read(reader)?;
        let table = LineTable::read(reader, &elf)?;
        let go_version = go_version(reader, &elf)?;
        let layout = layout(&go_version)?;
        let mut points = Vec::new();
        for function in table.find(reader, |name| std::str::from_utf8(name).is_ok_and(|name| form(name).is_some()))? {
            let Some(form) = form(&function.name).filter(|_| function.file.ends_with(FILE)) else { continue };
            points.push(point(reader, &elf, function, form)?);
        }
        if points.is_empty() {
            return Err(BinaryError::NoAuthenticator);
        }
        Ok(Self { machine: elf.machine, go_version, layout, points })
    }
}

/// Whether a function's name is an anonymous authenticator's, and which form it has then.
fn form(name: &str) -> Option<Form> {
    if name.strip_prefix(VENDOR).unwrap_or(name) == METHOD {
        return Some(Form::Method);
    }
    let start = name.trim_end_matches(|character: char| character.is_ascii_digit());
    (start.len() < name.len() && start.ends_with(CLOSURE)).then_some(Form::Closure)
}

fn point<R: Read + Seek>(reader: &mut R, elf: &Elf, function: Function, form: Form) -> Result<Point, BinaryError> {
    let outside = BinaryError::Damaged("the authenticator is not where its line table says");
    let size = function.size.min(CODE);
    let start = elf.file_offset(function.address, size).ok_or(outside)?;
    let region = Region { address: function.address, offset: start, size };
    let mut window = Window::new(reader, region);
    let code = window.bytes(0, size as usize)?;
    let entry = start + prologue::entry(elf.machine, code);
    let whole = function.size <= CODE;
    let returns = prologue::returns(elf.machine, code).filter(|_| whole).unwrap_or_default();
    Ok(Point { name: function.name, form, entry, returns: returns.into_iter().map(|offset| start + offset).collect() })
}

#[cfg(test)]
#[path = "authenticator_tests.rs"]
mod tests;
