//! The structs of sys are those of the C ABI, of which csrc/abi.txt has every field's place and size.

use fastgd::sys::{Activation, Group, Labels, Options, Report, Tensor};
use std::mem::{size_of, MaybeUninit};
use std::ptr::addr_of;

fn size_behind<T>(_: *const T) -> usize {
    size_of::<T>()
}

/// The lines of abi.txt for a struct, up to where they say the type.
macro_rules! lines {
    ($c:literal, $rust:ty, $($field:ident)*) => {{
        let memory = MaybeUninit::<$rust>::uninit();
        let start = memory.as_ptr();
        let mut lines = vec![format!("{}: {} bytes", $c, size_of::<$rust>())];
        $(
            // SAFETY: the place is computed, and nothing is read
            let place = unsafe { addr_of!((*start).$field) };
            let offset = place as usize - start as usize;
            lines.push(format!("{}.{}: {} bytes at {}", $c, stringify!($field), size_behind(place), offset));
        )*
        lines
    }};
}

#[test]
fn structs_are_those_of_the_abi() {
    let abi = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../csrc/abi.txt")).unwrap();
    let structs = [
        lines!("fgd_tensor", Tensor, size group norm_group dtype grad_dtype copy_dtype state_dtype param grad
            state scales residual average copy step stream unit rows n_rows width layout factor_rows
            factor_cols matrix_rows),
        lines!("fgd_group", Group, rule switches maximize cautious rounding state_rounding seed
            average_weight scalars),
        lines!("fgd_options", Options, grad_scale clip_value clip_norm clip_unit unit_eps total_norm norm
            scope normalize measure skip_nonfinite),
        lines!("fgd_report", Report, measured skipped norm sumsq clip_coef nonfinite_tensor nonfinite_element
            error_tensor),
        lines!("fgd_activation", Activation, kind a b),
        lines!("fgd_labels", Labels, weights label_smoothing divisor ignored),
    ];
    for expected in structs {
        let name = expected[0].split(':').next().unwrap();
        let own = |line: &&str| line.split(&['.', ':'][..]).next() == Some(name);
        let found: Vec<_> = abi.lines().filter(own).map(|line| line.split(',').next().unwrap()).collect();
        assert_eq!(found, expected);
    }
}
