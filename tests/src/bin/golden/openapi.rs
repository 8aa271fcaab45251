//! Holds answers against the schemas of an OpenAPI 3.1 document: as much of JSON Schema as such documents use.

use anyhow::Context as _;
use serde_json::Value;
use tributary_tests::http::Answer;

/// How deep references may lead; deeper is a fault of the document.
const DEPTH: usize = 64;

/// An OpenAPI document.
pub struct Document(Value);

impl Document {
    /// Reads YAML.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let document: Value =
            tributary_model::yaml::parse(text, "openapi").map_err(|e| anyhow::anyhow!("{e}"))?;
        document["paths"].as_object().context("the document has no paths")?;
        Ok(Self(document))
    }

    /// Whether an answer is what the document says; `None` where it says nothing.
    pub fn check(&self, record: &Value, answer: &Answer) -> Option<Result<(), String>> {
        let json = answer.headers.get("content-type")?.as_bytes().starts_with(b"application/json");
        if !json || answer.headers.contains_key("content-encoding") {
            return None;
        }
        let path = record["request"]["path"].as_str()?.strip_prefix("/api/v1")?;
        let path = match path.strip_prefix("/label/") {
            Some(_) => "/label/{name}/values",
            None => path,
        };
        let method = record["request"]["method"].as_str()?.to_ascii_lowercase();
        let responses = self.0["paths"].get(path)?.get(&method)?.get("responses")?;
        let status = answer.status.as_u16().to_string();
        let Some(response) = responses.get(&status).or_else(|| responses.get("default")) else {
            return Some(Err(format!("status {status} is not in the document")));
        };
        let response = self.resolved(response);
        let schema = response["content"]["application/json"].get("schema")?;
        Some(self.fits(schema, &answer.json(), "answer", 0))
    }

    /// What a reference leads to.
    fn resolved<'a>(&'a self, node: &'a Value) -> &'a Value {
        let pointer = node["$ref"].as_str().and_then(|target| target.strip_prefix('#'));
        pointer.and_then(|pointer| self.0.pointer(pointer)).unwrap_or(node)
    }

    fn fits(&self, schema: &Value, value: &Value, place: &str, depth: usize) -> Result<(), String> {
        if depth > DEPTH {
            return Err(format!("{place}: the schema refers to itself"));
        }
        let resolved = self.resolved(schema);
        if !std::ptr::eq(resolved, schema) {
            return self.fits(resolved, value, place, depth + 1);
        }
        self.combined(schema, value, place, depth)?;
        types(schema, value, place)?;
        if let Some(allowed) = schema["enum"].as_array()
            && !allowed.contains(value)
        {
            return Err(format!("{place}: {value} is not one of {allowed:?}"));
        }
        if let Some(constant) = schema.get("const").filter(|constant| *constant != value) {
            return Err(format!("{place}: {value} is not {constant}"));
        }
        if let Some(items) = value.as_array() {
            for (i, item) in items.iter().enumerate() {
                let own = schema["prefixItems"].get(i).or_else(|| schema.get("items"));
                if let Some(own) = own.filter(|own| own.is_object()) {
                    self.fits(own, item, &format!("{place}[{i}]"), depth + 1)?;
                }
            }
            bounds(schema, items.len(), place)?;
        }
        if let Some(object) = value.as_object() {
            self.object(schema, object, place, depth)?;
        }
        Ok(())
    }

    fn combined(
        &self,
        schema: &Value,
        value: &Value,
        place: &str,
        depth: usize,
    ) -> Result<(), String> {
        let list = |key: &str| schema[key].as_array().map(Vec::as_slice).unwrap_or_default();
        for part in list("allOf") {
            self.fits(part, value, place, depth + 1)?;
        }
        for (key, exact) in [("anyOf", false), ("oneOf", true)] {
            let parts = list(key);
            let results: Vec<_> =
                parts.iter().map(|part| self.fits(part, value, place, depth + 1)).collect();
            let fitting = results.iter().filter(|result| result.is_ok()).count();
            if !parts.is_empty() && (fitting == 0 || (exact && fitting > 1)) {
                let first = results.into_iter().find_map(Result::err).unwrap_or_default();
                return Err(format!("{place}: {fitting} of {key} fit: {first}"));
            }
        }
        Ok(())
    }

    fn object(
        &self,
        schema: &Value,
        object: &serde_json::Map<String, Value>,
        place: &str,
        depth: usize,
    ) -> Result<(), String> {
        let required = schema["required"].as_array().into_iter().flatten();
        for name in required.filter_map(Value::as_str) {
            if !object.contains_key(name) {
                return Err(format!("{place}.{name} is missing"));
            }
        }
        for (name, value) in object {
            let inner = format!("{place}.{name}");
            if let Some(property) = schema["properties"].get(name) {
                self.fits(property, value, &inner, depth + 1)?;
                continue;
            }
            match &schema["additionalProperties"] {
                Value::Bool(false) => return Err(format!("{inner} is not in the document")),
                additional @ Value::Object(_) => self.fits(additional, value, &inner, depth + 1)?,
                _ => {}
            }
        }
        Ok(())
    }
}

fn types(schema: &Value, value: &Value, place: &str) -> Result<(), String> {
    let is = |name: &str| match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.as_f64().is_some_and(|n| n.fract() == 0.0),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => false,
    };
    let fits = match &schema["type"] {
        Value::String(name) => is(name),
        Value::Array(names) => names.iter().filter_map(Value::as_str).any(is),
        _ => true,
    };
    if fits { Ok(()) } else { Err(format!("{place}: {value} is not {}", schema["type"])) }
}

fn bounds(schema: &Value, length: usize, place: &str) -> Result<(), String> {
    let bound = |key: &str| schema[key].as_u64().and_then(|n| usize::try_from(n).ok());
    let short = bound("minItems").is_some_and(|least| length < least);
    let long = bound("maxItems").is_some_and(|most| length > most);
    if short || long { Err(format!("{place} has {length} items")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn schemas() {
        let document = Document(json!({
            "components": { "schemas": {
                "Pair": { "type": "array", "prefixItems": [{ "type": "number" }, { "type": "string" }], "minItems": 2, "maxItems": 2 },
                "Thing": {
                    "type": "object",
                    "required": ["name"],
                    "properties": {
                        "name": { "type": "string", "enum": ["a", "b"] },
                        "value": { "oneOf": [{ "type": "null" }, { "$ref": "#/components/schemas/Pair" }] },
                    },
                    "additionalProperties": false,
                },
            } },
        }));
        let thing = json!({ "$ref": "#/components/schemas/Thing" });
        for (value, fits) in [
            (json!({ "name": "a" }), true),
            (json!({ "name": "a", "value": [1.5, "2"] }), true),
            (json!({ "name": "a", "value": null }), true),
            (json!({ "name": "c" }), false),
            (json!({ "value": null }), false),
            (json!({ "name": "a", "value": [1.5] }), false),
            (json!({ "name": "a", "value": ["1", "2"] }), false),
            (json!({ "name": "a", "other": 1 }), false),
            (json!([]), false),
        ] {
            assert_eq!(document.fits(&thing, &value, "thing", 0).is_ok(), fits, "{value}");
        }
    }
}
