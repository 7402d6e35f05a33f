//! Parameters with their gradients and state, and the fused step that updates them.

use crate::{check, find, sys, Error};
use std::ptr::{null, null_mut};

/// A tensor that is trained: its elements, their gradients, and what AdamW keeps of them.
pub struct Parameter {
    pub(crate) value: Vec<f32>,
    pub(crate) grad: Vec<f32>,
    exp_avg: Vec<f32>,
    exp_avg_sq: Vec<f32>,
    step: i64,
}

impl Parameter {
    pub fn new(value: Vec<f32>) -> Self {
        let zeros = vec![0.0; value.len()];
        Parameter { value, grad: zeros.clone(), exp_avg: zeros.clone(), exp_avg_sq: zeros, step: 0 }
    }

    pub fn value(&self) -> &[f32] {
        &self.value
    }

    pub fn grad_mut(&mut self) -> &mut [f32] {
        &mut self.grad
    }
}

/// AdamW (Loshchilov and Hutter 2019, algorithm 2), behind clipping of the gradients' global norm.
pub struct AdamW {
    pub lr: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub weight_decay: f64,
    /// infinite for none
    pub clip_norm: f64,
}

impl Default for AdamW {
    fn default() -> Self {
        AdamW { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 1e-2, clip_norm: f64::INFINITY }
    }
}

impl AdamW {
    /// What an update takes at a step, of which the first is 1.
    fn group(&self, adamw: i32, step: i64) -> Result<sys::Group, Error> {
        let (mut values, mut group) = ([0.0; sys::MAX_HYPERPARAMETERS], sys::Group::default());
        let given = [
            ("lr\0", self.lr),
            ("betas[0]\0", self.beta1),
            ("betas[1]\0", self.beta2),
            ("eps\0", self.eps),
            ("weight_decay\0", self.weight_decay),
        ];
        // SAFETY: there is room for the values of any optimizer; adamw looks at no tensor and carries nothing
        unsafe {
            check(sys::fgd_hyperparameter_defaults(adamw, values.as_mut_ptr()))?;
            for (name, value) in given {
                check(sys::fgd_hyperparameter_set(adamw, values.as_mut_ptr(), name.as_ptr().cast(), value))?;
            }
            check(sys::fgd_fold(adamw, values.as_ptr(), null(), step, null_mut(), &mut group))?;
        }
        Ok(group)
    }

    /// One step. Where a gradient is NaN or infinite nothing is changed, and the report says so.
    pub fn step(&self, parameters: &mut [&mut Parameter]) -> Result<sys::Report, Error> {
        let adamw = find(sys::fgd_optimizer_find, "adamw")?;
        let groups: Vec<_> =
            parameters.iter().map(|p| self.group(adamw, p.step + 1)).collect::<Result<_, _>>()?;
        let tensors: Vec<_> = parameters
            .iter_mut()
            .enumerate()
            .map(|(i, p)| {
                // SAFETY: 0 is a value of every field
                let mut tensor: sys::Tensor = unsafe { std::mem::zeroed() };
                tensor.size = p.value.len() as i64;
                tensor.group = i as i32;
                tensor.param = p.value.as_mut_ptr().cast();
                tensor.grad = p.grad.as_ptr().cast();
                tensor.state[0] = p.exp_avg.as_mut_ptr().cast();
                tensor.state[1] = p.exp_avg_sq.as_mut_ptr().cast();
                tensor.step = &mut p.step;
                tensor
            })
            .collect();
        let options = sys::Options {
            grad_scale: 1.0,
            clip_value: f64::INFINITY,
            clip_norm: self.clip_norm,
            clip_unit: f64::INFINITY,
            total_norm: -1.0,
            skip_nonfinite: 1,
            ..Default::default()
        };
        let n = tensors.len() as i64;
        let mut report = sys::Report::default();
        // SAFETY: each tensor's arrays have its size, are borrowed until the call returns, and do not overlap
        check(unsafe {
            let size = sys::fgd_workspace_size(tensors.as_ptr(), n);
            let mut workspace = vec![0u64; size as usize / 8 + 1];
            let workspace = workspace.as_mut_ptr().cast();
            sys::fgd_update(groups.as_ptr(), n, tensors.as_ptr(), n, &options, workspace, size, &mut report)
        })?;
        Ok(report)
    }
}
