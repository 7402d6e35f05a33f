//! The part of the C ABI that this crate calls, as fastgd.h and fastgd_layers.h declare it.

use std::os::raw::{c_char, c_int, c_void};

pub const MAX_SLOTS: usize = 8;
pub const MAX_SCALARS: usize = 16;
pub const MAX_HYPERPARAMETERS: usize = 24;
pub const F32: c_int = 0;
pub const GEMM_ROW_MAJOR: c_int = 1;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Tensor {
    pub size: i64,
    pub group: i32,
    pub norm_group: i32,
    pub dtype: i32,
    pub grad_dtype: i32,
    pub copy_dtype: i32,
    pub state_dtype: [i32; MAX_SLOTS],
    pub param: *mut c_void,
    pub grad: *const c_void,
    pub state: [*mut c_void; MAX_SLOTS],
    pub scales: [*mut f32; MAX_SLOTS],
    pub residual: *mut c_void,
    pub average: *mut c_void,
    pub copy: *mut c_void,
    pub step: *mut i64,
    pub stream: u64,
    pub unit: i64,
    pub rows: *const i64,
    pub n_rows: i64,
    pub width: i64,
    pub layout: *const c_void,
    pub factor_rows: i64,
    pub factor_cols: i64,
    pub matrix_rows: i64,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Group {
    pub rule: i32,
    pub switches: u32,
    pub maximize: i32,
    pub cautious: i32,
    pub rounding: i32,
    pub state_rounding: i32,
    pub seed: u64,
    pub average_weight: f64,
    pub scalars: [f64; MAX_SCALARS],
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Options {
    pub grad_scale: f64,
    pub clip_value: f64,
    pub clip_norm: f64,
    pub clip_unit: f64,
    pub unit_eps: f64,
    pub total_norm: f64,
    pub norm: i32,
    pub scope: i32,
    pub normalize: i32,
    pub measure: i32,
    pub skip_nonfinite: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    pub measured: i32,
    pub skipped: i32,
    pub norm: f64,
    pub sumsq: f64,
    pub clip_coef: f64,
    pub nonfinite_tensor: i64,
    pub nonfinite_element: i64,
    pub error_tensor: i64,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Activation {
    pub kind: i32,
    pub a: f64,
    pub b: f64,
}

#[repr(C)]
pub struct Labels {
    pub weights: *const c_void,
    pub label_smoothing: f64,
    pub divisor: f64,
    pub ignored: i64,
}

/// `fgd_sgemm`; `fgd_set_gemm` takes it as a function of no arguments.
pub type Sgemm = unsafe extern "C" fn(
    c_char,
    c_char,
    i64,
    i64,
    i64,
    f32,
    *const f32,
    i64,
    *const f32,
    i64,
    f32,
    *mut f32,
    i64,
) -> c_int;

#[rustfmt::skip]
extern "C" {
    pub fn fgd_error_text(code: c_int) -> *const c_char;
    pub fn fgd_optimizer_find(name: *const c_char) -> c_int;
    pub fn fgd_hyperparameter_defaults(optimizer: c_int, values: *mut f64) -> c_int;
    pub fn fgd_hyperparameter_set(optimizer: c_int, values: *mut f64, name: *const c_char,
                                  value: f64) -> c_int;
    pub fn fgd_fold(optimizer: c_int, values: *const f64, tensor: *const Tensor, step: i64,
                    carried: *mut f64, group: *mut Group) -> c_int;
    pub fn fgd_activation_find(name: *const c_char) -> c_int;
    pub fn fgd_set_gemm(dtype: c_int, kind: c_int, function: Sgemm) -> c_int;
    pub fn fgd_workspace_size(tensors: *const Tensor, n_tensors: i64) -> i64;
    pub fn fgd_update(groups: *const Group, n_groups: i64, tensors: *const Tensor, n_tensors: i64,
                      options: *const Options, workspace: *mut c_void, workspace_size: i64,
                      report: *mut Report) -> c_int;
    pub fn fgd_linear_forward(dtype: c_int, activation: *const Activation, batch: i64, inputs: i64,
                              outputs: i64, x: *const f32, weight: *const f32, bias: *const f32,
                              z: *mut f32, y: *mut f32) -> c_int;
    pub fn fgd_linear_backward(dtype: c_int, activation: *const Activation, batch: i64, inputs: i64,
                               outputs: i64, x: *const f32, weight: *const f32, saved: *const f32,
                               dy: *mut f32, dx: *mut f32, dweight: *mut f32, dbias: *mut f32) -> c_int;
    pub fn fgd_softmax_cross_entropy(dtype: c_int, of: *const Labels, batch: i64, classes: i64,
                                     logits: *const f32, labels: *const i64, grad: *mut f32,
                                     row_loss: *mut f64, loss: *mut f64) -> c_int;
}
