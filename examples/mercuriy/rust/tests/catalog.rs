//! The functions are those of `functions.json`, which both implementations publish.

use mercuriy::systems::Function;
use serde_json::Value;

#[test]
fn the_functions_and_their_parameters_are_those_that_are_published() {
    let published: Value = serde_json::from_str(include_str!("../../functions.json")).expect("it is JSON");
    let functions = published["functions"].as_object().expect("an object");
    assert_eq!(functions.len(), Function::ALL.len());
    for (name, published) in functions {
        let function = Function::named(name).expect("it is implemented");
        let parameters = published["parameters"].as_array().expect("an array");
        let names: Vec<_> = parameters.iter().filter_map(|parameter| parameter["name"].as_str()).collect();
        assert_eq!(function.parameters(), names);
        let arguments = |pick: fn(&Value) -> Option<Value>| -> Option<Vec<Value>> {
            parameters.iter().map(pick).collect()
        };
        let at_most = |parameter: &Value| match parameter["type"].as_str()? {
            "integer" => Some(parameter["maximum"].clone()),
            "string" => Some("ä".repeat(usize::try_from(parameter["maxLength"].as_u64()?).ok()?).into()),
            _ => Some(Value::Null),
        };
        assert_eq!(function.check(&arguments(at_most).expect("they have limits")), Ok(()), "{name}");
        let beyond = |parameter: &Value| match parameter["type"].as_str()? {
            "integer" => Some((parameter["maximum"].as_i64()? + 1).into()),
            "string" => Some("x".repeat(usize::try_from(parameter["maxLength"].as_u64()?).ok()? + 1).into()),
            _ => None,
        };
        if let Some(arguments) = arguments(beyond).filter(|arguments| !arguments.is_empty()) {
            assert!(function.check(&arguments).is_err(), "{name}");
        }
        assert!(function.check(&vec![Value::Null; names.len() + 1]).is_err(), "{name}");
    }
}
