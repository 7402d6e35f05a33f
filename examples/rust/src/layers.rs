//! Linear layers with an activation, and the loss of a classifier.

use crate::{check, find, product, sys, Error, Parameter};
use std::ptr::{null, null_mut};

/// y = activation(x weight' + bias).
pub struct Linear {
    pub weight: Parameter,
    pub bias: Parameter,
    inputs: usize,
    outputs: usize,
    activation: sys::Activation,
}

impl Linear {
    /// activation: one without parameters whose derivative comes of its output. Weights begin within
    /// 1 / sqrt(inputs), as `uniform` gives numbers from -1 to 1, and biases at 0.
    pub fn new(
        inputs: usize,
        outputs: usize,
        activation: &str,
        uniform: &mut impl FnMut() -> f32,
    ) -> Result<Self, Error> {
        product::provide();
        let kind = find(sys::fgd_activation_find, activation)?;
        let bound = 1.0 / (inputs as f32).sqrt();
        Ok(Linear {
            weight: Parameter::new((0..inputs * outputs).map(|_| bound * uniform()).collect()),
            bias: Parameter::new(vec![0.0; outputs]),
            inputs,
            outputs,
            activation: sys::Activation { kind, a: 0.0, b: 0.0 },
        })
    }

    /// x [batch, inputs], y [batch, outputs].
    pub fn forward(&self, x: &[f32], y: &mut [f32]) -> Result<(), Error> {
        let batch = self.batch(x, y);
        // SAFETY: all lengths are those of the sizes
        check(unsafe {
            sys::fgd_linear_forward(
                sys::F32,
                &self.activation,
                batch,
                self.inputs as i64,
                self.outputs as i64,
                x.as_ptr(),
                self.weight.value.as_ptr(),
                self.bias.value.as_ptr(),
                null_mut(),
                y.as_mut_ptr(),
            )
        })?;
        Ok(())
    }

    /// From y and the loss's derivative dy, which is overwritten: the gradients of weight and bias, and dx.
    pub fn backward(
        &mut self,
        x: &[f32],
        y: &[f32],
        dy: &mut [f32],
        dx: Option<&mut [f32]>,
    ) -> Result<(), Error> {
        let batch = self.batch(x, y);
        assert_eq!(dy.len(), y.len(), "dy");
        if let Some(dx) = &dx {
            assert_eq!(dx.len(), x.len(), "dx");
        }
        // SAFETY: all lengths are those of the sizes
        check(unsafe {
            sys::fgd_linear_backward(
                sys::F32,
                &self.activation,
                batch,
                self.inputs as i64,
                self.outputs as i64,
                x.as_ptr(),
                self.weight.value.as_ptr(),
                y.as_ptr(),
                dy.as_mut_ptr(),
                dx.map_or(null_mut(), |dx| dx.as_mut_ptr()),
                self.weight.grad.as_mut_ptr(),
                self.bias.grad.as_mut_ptr(),
            )
        })?;
        Ok(())
    }

    /// The rows of x, when all lengths are those of the sizes; panics otherwise.
    fn batch(&self, x: &[f32], y: &[f32]) -> i64 {
        assert_eq!(self.weight.value.len(), self.inputs * self.outputs, "weight");
        assert_eq!(self.bias.value.len(), self.outputs, "bias");
        let batch = x.len() / self.inputs;
        assert_eq!(x.len(), batch * self.inputs, "x");
        assert_eq!(y.len(), batch * self.outputs, "y");
        batch as i64
    }
}

/// The mean cross entropy of the rows of logits [labels.len(), classes]; grad receives its derivative.
pub fn cross_entropy(logits: &[f32], labels: &[i64], grad: &mut [f32]) -> Result<f64, Error> {
    let batch = labels.len();
    let classes = logits.len() / batch.max(1);
    assert_eq!(logits.len(), batch * classes, "logits");
    assert_eq!(grad.len(), logits.len(), "grad");
    let mean = sys::Labels { weights: null(), label_smoothing: 0.0, divisor: batch as f64, ignored: -1 };
    let (mut row_loss, mut loss) = (vec![0.0; batch], 0.0);
    // SAFETY: all lengths are those of the sizes, and labels are checked there
    check(unsafe {
        sys::fgd_softmax_cross_entropy(
            sys::F32,
            &mean,
            batch as i64,
            classes as i64,
            logits.as_ptr(),
            labels.as_ptr(),
            grad.as_mut_ptr(),
            row_loss.as_mut_ptr(),
            &mut loss,
        )
    })?;
    Ok(loss)
}
