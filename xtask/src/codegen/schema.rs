//! Kafka's message schemas: the JSON of the kafka-clients jar, read into what the generator needs.
//! Kafka's own description of them is `common/message/README.md` in the jar.

use std::{collections::BTreeMap, fmt, path::Path};

use serde::Deserialize;

/// Versions from `min` to `max`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Versions {
    pub(super) min: i16,
    pub(super) max: i16,
}

impl Versions {
    pub(super) fn intersect(self, other: Self) -> Option<Self> {
        let both = Self { min: self.min.max(other.min), max: self.max.min(other.max) };
        (both.min <= both.max).then_some(both)
    }

    pub(super) fn hull(self, other: Self) -> Self {
        Self { min: self.min.min(other.min), max: self.max.max(other.max) }
    }

    pub(super) fn contains(self, version: i16) -> bool {
        (self.min..=self.max).contains(&version)
    }

    /// `none`, `3`, `1-4` or `2+`.
    fn parse(text: &str) -> Result<Option<Self>, String> {
        let number = |digits: &str| digits.parse::<i16>().map_err(|_| format!("`{text}` is no range of versions"));
        if text == "none" {
            return Ok(None);
        }
        let range = if let Some(min) = text.strip_suffix('+') {
            Self { min: number(min)?, max: i16::MAX }
        } else if let Some((min, max)) = text.split_once('-') {
            Self { min: number(min)?, max: number(max)? }
        } else {
            Self { min: number(text)?, max: number(text)? }
        };
        Ok(Some(range))
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.min == self.max { write!(f, "{}", self.min) } else { write!(f, "{}-{}", self.min, self.max) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Primitive {
    Bool,
    Int8,
    Int16,
    Uint16,
    Int32,
    Int64,
    Float64,
    Uuid,
    String,
    Bytes,
    Records,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Type {
    Primitive(Primitive),
    Struct(String),
    Array(Box<Self>),
}

impl Type {
    fn parse(text: &str) -> Self {
        if let Some(element) = text.strip_prefix("[]") {
            return Self::Array(Box::new(Self::parse(element)));
        }
        Self::Primitive(match text {
            "bool" => Primitive::Bool,
            "int8" => Primitive::Int8,
            "int16" => Primitive::Int16,
            "uint16" => Primitive::Uint16,
            "int32" => Primitive::Int32,
            "int64" => Primitive::Int64,
            "float64" => Primitive::Float64,
            "uuid" => Primitive::Uuid,
            "string" => Primitive::String,
            "bytes" => Primitive::Bytes,
            "records" => Primitive::Records,
            name => return Self::Struct(name.to_owned()),
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entity {
    NodeId,
    ProducerId,
    TopicName,
    GroupId,
    TransactionalId,
}

#[derive(Debug, Clone)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) ty: Type,
    pub(super) versions: Versions,
    pub(super) nullable: Option<Versions>,
    pub(super) tag: Option<(u32, Versions)>,
    /// As the schema writes it; `null` too.
    pub(super) default: Option<String>,
    pub(super) ignorable: bool,
    pub(super) entity: Option<Entity>,
    /// A string that keeps its two-byte length in flexible versions.
    pub(super) never_flexible: bool,
    pub(super) about: String,
    /// Of the struct that this field defines.
    fields: Vec<Self>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Request,
    Response,
    Data,
}

#[derive(Debug, Clone)]
pub(super) struct Message {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) api_key: Option<i16>,
    pub(super) for_brokers: bool,
    /// The stable ones.
    pub(super) versions: Option<Versions>,
    pub(super) first_flexible: Option<i16>,
    fields: Vec<Field>,
    common_structs: BTreeMap<String, Vec<Field>>,
}

/// A struct as it can appear in a message.
#[derive(Debug)]
pub(super) struct Struct {
    pub(super) name: String,
    /// The versions of the message in which it can appear.
    pub(super) versions: Versions,
    /// Those that exist in one of these versions, in the order of the wire.
    pub(super) fields: Vec<Field>,
}

impl Message {
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let fault = |reason: String| format!("{}: {reason}", path.display());
        let text = std::fs::read_to_string(path).map_err(|error| fault(error.to_string()))?;
        let json: JsonMessage =
            serde_json::from_str(&without_comments(&text)).map_err(|error| fault(error.to_string()))?;
        Self::from_json(json).map_err(fault)
    }

    fn from_json(json: JsonMessage) -> Result<Self, String> {
        let mut versions = Versions::parse(&json.valid_versions)?;
        if let (Some(versions), true) = (&mut versions, json.latest_version_unstable) {
            versions.max -= 1;
        }
        let common_structs = json.common_structs.into_iter().map(|common| Ok((common.name, fields(common.fields)?)));
        Ok(Self {
            kind: match json.kind.as_str() {
                "request" => Kind::Request,
                "response" => Kind::Response,
                _ => Kind::Data,
            },
            api_key: json.api_key,
            for_brokers: json.listeners.iter().any(|listener| listener == "broker"),
            versions,
            first_flexible: Versions::parse(&json.flexible_versions)?.map(|flexible| flexible.min),
            fields: fields(json.fields)?,
            common_structs: common_structs.collect::<Result<_, String>>()?,
            name: json.name,
        })
    }

    /// The structs of the message that exist in `versions`, each before those that use it, the message itself last.
    pub(super) fn structs(&self, versions: Versions) -> Result<Vec<Struct>, String> {
        let mut found = Vec::new();
        self.visit(&self.name, &self.fields, versions, &mut found)?;
        Ok(found)
    }

    fn visit(&self, name: &str, fields: &[Field], versions: Versions, found: &mut Vec<Struct>) -> Result<(), String> {
        for field in fields {
            let Some(inner) = field.versions.intersect(versions) else { continue };
            let element = match &field.ty {
                Type::Array(element) => element,
                other => other,
            };
            if let Type::Struct(inner_name) = element {
                let inner_fields = if field.fields.is_empty() {
                    self.common_structs.get(inner_name).ok_or_else(|| format!("{inner_name} is not defined"))?
                } else {
                    &field.fields
                };
                self.visit(inner_name, inner_fields, inner, found)?;
            }
        }
        // A common struct is met once for each use.
        let versions = match found.iter().position(|known| known.name == name) {
            Some(index) => found.remove(index).versions.hull(versions),
            None => versions,
        };
        let fields = fields.iter().filter(|field| field.versions.intersect(versions).is_some()).cloned().collect();
        found.push(Struct { name: name.to_owned(), versions, fields });
        Ok(())
    }
}

fn fields(json: Vec<JsonField>) -> Result<Vec<Field>, String> {
    json.into_iter().map(field).collect()
}

fn field(json: JsonField) -> Result<Field, String> {
    let name = json.name;
    let versions = Versions::parse(&json.versions)?.ok_or_else(|| format!("{name} has no versions"))?;
    let nullable = json.nullable_versions.as_deref().map(Versions::parse).transpose()?.flatten();
    let tagged = json.tagged_versions.as_deref().map(Versions::parse).transpose()?.flatten();
    let tag = match (json.tag, tagged) {
        (Some(tag), Some(tagged)) if tagged.min <= versions.min => Some((tag, tagged)),
        (None, None) => None,
        _ => return Err(format!("{name} is tagged in some of its versions only, which the generator does not know")),
    };
    let entity = match json.entity_type.as_deref() {
        None => None,
        Some("brokerId") => Some(Entity::NodeId),
        Some("producerId") => Some(Entity::ProducerId),
        Some("topicName") => Some(Entity::TopicName),
        Some("groupId") => Some(Entity::GroupId),
        Some("transactionalId") => Some(Entity::TransactionalId),
        Some(other) => return Err(format!("{name} has the entity type {other}, which the generator does not know")),
    };
    Ok(Field {
        ty: Type::parse(&json.ty),
        versions,
        nullable: nullable.and_then(|nullable| nullable.intersect(versions)),
        tag,
        default: json.default.map(|default| match default {
            serde_json::Value::String(text) => text,
            other => other.to_string(),
        }),
        ignorable: json.ignorable,
        entity,
        never_flexible: json.flexible_versions.is_some(),
        about: json.about,
        fields: fields(json.fields)?,
        name,
    })
}

/// The JSON of the schemas has comments from `//` to the end of the line.
fn without_comments(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        let mut in_string = false;
        let mut previous = ' ';
        let mut end = line.len();
        for (at, c) in line.char_indices() {
            match c {
                '"' if previous != '\\' => in_string = !in_string,
                '/' if previous == '/' && !in_string => {
                    end = at - 1;
                    break;
                }
                _ => {}
            }
            previous = c;
        }
        out.push_str(&line[..end]);
        out.push('\n');
    }
    out
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonMessage {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    api_key: Option<i16>,
    #[serde(default)]
    listeners: Vec<String>,
    valid_versions: String,
    #[serde(default = "none")]
    flexible_versions: String,
    #[serde(default)]
    latest_version_unstable: bool,
    #[serde(default)]
    fields: Vec<JsonField>,
    #[serde(default)]
    common_structs: Vec<JsonStruct>,
}

#[derive(Deserialize)]
struct JsonStruct {
    name: String,
    fields: Vec<JsonField>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonField {
    name: String,
    #[serde(rename = "type")]
    ty: String,
    versions: String,
    nullable_versions: Option<String>,
    tagged_versions: Option<String>,
    tag: Option<u32>,
    flexible_versions: Option<String>,
    default: Option<serde_json::Value>,
    #[serde(default)]
    ignorable: bool,
    entity_type: Option<String>,
    #[serde(default)]
    about: String,
    #[serde(default)]
    fields: Vec<Self>,
}

fn none() -> String {
    "none".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_go_but_not_the_slashes_of_a_string() {
        let text = "// all\n{ \"a\": \"http://x\", // rest\n\"b\": 1 }";
        assert_eq!(without_comments(text), "\n{ \"a\": \"http://x\", \n\"b\": 1 }\n");
    }

    #[test]
    fn versions_are_parsed_in_each_form() {
        let parsed = |text| Versions::parse(text).unwrap();
        assert_eq!(parsed("none"), None);
        assert_eq!(parsed("3"), Some(Versions { min: 3, max: 3 }));
        assert_eq!(parsed("0-12"), Some(Versions { min: 0, max: 12 }));
        assert_eq!(parsed("2+"), Some(Versions { min: 2, max: i16::MAX }));
        assert!(Versions::parse("x").is_err());
    }
}
