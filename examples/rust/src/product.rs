//! The program's own matrix product: plain here, and sgemm_ of a BLAS where time matters.

use crate::{check, sys};
use std::os::raw::{c_char, c_int};
use std::sync::Once;

/// Gives the library the product, once.
pub fn provide() {
    static PROVIDED: Once = Once::new();
    // SAFETY: the function has this type and stays
    PROVIDED.call_once(|| unsafe {
        check(sys::fgd_set_gemm(sys::F32, sys::GEMM_ROW_MAJOR, product)).expect("a product of float32");
    });
}

unsafe extern "C" fn product(
    transa: c_char,
    transb: c_char,
    m: i64,
    n: i64,
    k: i64,
    alpha: f32,
    a: *const f32,
    lda: i64,
    b: *const f32,
    ldb: i64,
    beta: f32,
    c: *mut f32,
    ldc: i64,
) -> c_int {
    let at = |matrix: *const f32, ld: i64, transposed: bool, row: i64, col: i64| {
        *matrix.offset(if transposed { col * ld + row } else { row * ld + col } as isize)
    };
    let (transa, transb) = (transa == b'T' as c_char, transb == b'T' as c_char);
    for row in 0..m {
        for col in 0..n {
            let sum: f32 = (0..k).map(|i| at(a, lda, transa, row, i) * at(b, ldb, transb, i, col)).sum();
            let out = c.offset((row * ldc + col) as isize);
            *out = alpha * sum + if beta == 0.0 { 0.0 } else { beta * *out };
        }
    }
    0
}
