//! Trains a network of two layers on a CSV file: a header, then numbers and a class a line.

use fastgd::{cross_entropy, AdamW, Linear};
use std::error::Error;

const HIDDEN: usize = 16;
const STEPS: usize = 200;

struct Table {
    inputs: usize,
    classes: usize,
    /// [rows, inputs], each column with mean 0 and variance 1
    x: Vec<f32>,
    labels: Vec<i64>,
}

fn read(path: &str) -> Result<Table, Box<dyn Error>> {
    let (mut x, mut labels) = (Vec::new(), Vec::new());
    for line in std::fs::read_to_string(path)?.lines().skip(1) {
        let (cells, label) = line.rsplit_once(',').ok_or("a line has no comma")?;
        labels.push(label.parse::<i64>()?);
        for cell in cells.split(',') {
            x.push(cell.parse::<f32>()?);
        }
    }
    let rows = labels.len();
    let classes = 1 + *labels.iter().max().ok_or("the file has no rows")? as usize;
    let inputs = x.len() / rows;
    for col in 0..inputs {
        let column: Vec<f64> = x[col..].iter().step_by(inputs).map(|&v| v.into()).collect();
        let mean = column.iter().sum::<f64>() / rows as f64;
        let variance = column.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / rows as f64;
        for (scaled, v) in x[col..].iter_mut().step_by(inputs).zip(column) {
            *scaled = ((v - mean) / variance.sqrt()) as f32;
        }
    }
    Ok(Table { inputs, classes, x, labels })
}

/// Numbers from -1 to 1, by xorshift (Marsaglia 2003).
fn generator(mut state: u32) -> impl FnMut() -> f32 {
    move || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        2.0 * (state >> 8) as f32 / (1 << 24) as f32 - 1.0
    }
}

fn accuracy(logits: &[f32], labels: &[i64], classes: usize) -> f64 {
    let right = logits.chunks(classes).zip(labels).filter(|(row, &label)| {
        let best = (0..classes).max_by(|&i, &j| row[i].total_cmp(&row[j]));
        best == Some(label as usize)
    });
    right.count() as f64 / labels.len() as f64
}

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("usage: cargo run FILE.csv")?;
    let Table { inputs, classes, x, labels } = read(&path)?;
    let mut uniform = generator(1);
    let mut first = Linear::new(inputs, HIDDEN, "tanh", &mut uniform)?;
    let mut second = Linear::new(HIDDEN, classes, "identity", &mut uniform)?;
    let adamw = AdamW { lr: 0.02, clip_norm: 1.0, ..AdamW::default() };

    let mut hidden = vec![0.0; labels.len() * HIDDEN];
    let mut logits = vec![0.0; labels.len() * classes];
    let (mut dhidden, mut dlogits) = (hidden.clone(), logits.clone());
    for step in 0..=STEPS {
        first.forward(&x, &mut hidden)?;
        second.forward(&hidden, &mut logits)?;
        let loss = cross_entropy(&logits, &labels, &mut dlogits)?;
        second.backward(&hidden, &logits, &mut dlogits, Some(&mut dhidden))?;
        first.backward(&x, &hidden, &mut dhidden, None)?;
        let (one, two) = (&mut first, &mut second);
        adamw.step(&mut [&mut one.weight, &mut one.bias, &mut two.weight, &mut two.bias])?;
        if step % 50 == 0 {
            println!("step {step}: loss {loss:.4}, accuracy {:.3}", accuracy(&logits, &labels, classes));
        }
    }
    Ok(())
}
