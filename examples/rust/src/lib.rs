//! Safe wrappers of fastgd's C ABI: lengths are checked, state is owned, and codes become errors.

mod layers;
mod optimizer;
mod product;
pub mod sys;

pub use layers::{cross_entropy, Linear};
pub use optimizer::{AdamW, Parameter};

use std::ffi::{CStr, CString};
use std::fmt;
use std::os::raw::{c_char, c_int};

/// An error code of fastgd.h; shown as its sentence.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Error(pub i32);

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        // SAFETY: the text of every code is a string that stays
        let text = unsafe { CStr::from_ptr(sys::fgd_error_text(self.0)) };
        out.write_str(&text.to_string_lossy())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        write!(out, "{} ({self})", self.0)
    }
}

impl std::error::Error for Error {}

fn check(code: c_int) -> Result<i32, Error> {
    if code < 0 {
        return Err(Error(code));
    }
    Ok(code)
}

/// The number of what has this name in one of the library's tables.
fn find(table: unsafe extern "C" fn(*const c_char) -> c_int, name: &str) -> Result<i32, Error> {
    let name = CString::new(name).unwrap_or_default();
    // SAFETY: the name ends in 0 and lives until the call returns
    check(unsafe { table(name.as_ptr()) })
}
