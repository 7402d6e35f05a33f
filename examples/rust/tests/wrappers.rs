//! What the wrappers refuse, and what a step does where gradients are not finite.

use fastgd::{cross_entropy, AdamW, Linear, Parameter};

fn halves() -> impl FnMut() -> f32 {
    || 0.5
}

#[test]
fn a_name_that_is_none_is_refused_in_words() {
    let error = Linear::new(3, 2, "tanhh", &mut halves()).err().expect("an error");
    assert!(error.to_string().contains("activation"), "{error}");
}

#[test]
fn a_label_that_is_no_class_is_refused() {
    let mut grad = [7.0; 4];
    assert!(cross_entropy(&[0.0; 4], &[0, 2], &mut grad).is_err());
    assert_eq!(grad, [7.0; 4]);
}

#[test]
#[should_panic(expected = "weight")]
fn another_weight_of_another_size_is_refused() {
    let mut layer = Linear::new(3, 2, "tanh", &mut halves()).unwrap();
    layer.weight = Parameter::new(vec![1.0; 5]);
    let _ = layer.forward(&[1.0; 3], &mut [0.0; 2]);
}

#[test]
fn a_step_is_that_of_the_formula() {
    let mut weight = Parameter::new(vec![1.0, -2.0]);
    weight.grad_mut().copy_from_slice(&[3.0, -4.0]);
    let adamw = AdamW { lr: 0.1, weight_decay: 0.5, clip_norm: 1.0, ..AdamW::default() };
    let report = adamw.step(&mut [&mut weight]).unwrap();
    assert_eq!(report.norm, 5.0);
    // the first step is lr times the gradient's sign, behind a decay by 1 - lr weight_decay
    let expected = [0.95 - 0.1, -1.9 + 0.1];
    assert!(weight.value().iter().zip(expected).all(|(a, b): (&f32, f32)| (a - b).abs() < 1e-6));
}

#[test]
fn nothing_changes_where_a_gradient_is_not_finite() {
    let (mut one, mut two) = (Parameter::new(vec![1.0]), Parameter::new(vec![2.0, 3.0]));
    two.grad_mut()[1] = f32::NAN;
    let report = AdamW::default().step(&mut [&mut one, &mut two]).unwrap();
    assert_eq!((report.skipped, report.nonfinite_tensor, report.nonfinite_element), (1, 1, 1));
    assert_eq!((one.value(), two.value()), (&[1.0][..], &[2.0, 3.0][..]));
}

#[test]
fn a_hyperparameter_out_of_range_is_refused() {
    let mut weight = Parameter::new(vec![1.0]);
    let adamw = AdamW { beta1: 1.0, ..AdamW::default() };
    let error = adamw.step(&mut [&mut weight]).err().expect("an error");
    assert!(error.to_string().contains("hyperparameter"), "{error}");
    assert_eq!(weight.value(), &[1.0][..]);
}
