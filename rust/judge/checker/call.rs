//! Values that a function returned, compared as Python compares them, but never by Python.

use serde_json::{Number, Value};

use super::tokens::near;

/// Whether both are JSON for equal values. Data sets sometimes wrap the answer in one more list, which is undone.
pub(super) fn same_value(expected: &[u8], output: &[u8], tolerance: f64) -> bool {
    let parse = |text| serde_json::from_slice::<Value>(text).ok();
    let (Some(expected), Some(output)) = (parse(expected), parse(output)) else { return false };
    let wrapped = expected.as_array().and_then(|items| if let [only] = &items[..] { Some(only) } else { None });
    same(&expected, &output, tolerance) || wrapped.is_some_and(|answer| same(answer, &output, tolerance))
}

fn same(expected: &Value, output: &Value, tolerance: f64) -> bool {
    match (expected, output) {
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b, tolerance)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b, tolerance)))
        }
        (Value::Number(_) | Value::Bool(_), Value::Number(_) | Value::Bool(_)) => {
            same_number(&to_number(expected), &to_number(output), tolerance)
        }
        _ => expected == output,
    }
}

/// True is 1 and false is 0, as Python compares them.
fn to_number(value: &Value) -> Number {
    match value {
        Value::Number(number) => number.clone(),
        other => Number::from(u8::from(other == &Value::Bool(true))),
    }
}

fn same_number(expected: &Number, output: &Number, tolerance: f64) -> bool {
    // Whole numbers are kept as text, of any length.
    if expected == output {
        return true;
    }
    let whole = |number: &Number| !number.as_str().contains(['.', 'e', 'E']);
    if whole(expected) && whole(output) && tolerance == 0.0 {
        return false;
    }
    let (Some(a), Some(b)) = (expected.as_f64(), output.as_f64()) else { return false };
    near(a, b, tolerance, tolerance)
}
