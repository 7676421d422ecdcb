//! What a schema's fields are in Rust: their names, types, defaults and sizes.

use super::schema::{Entity, Field, Primitive, Struct, Type, Versions};

/// `ThrottleTimeMs` → `throttle_time_ms`, `IsrNodes` → `isr_nodes`.
pub(super) fn snake_case(name: &str) -> String {
    let chars: Vec<char> = name.chars().collect();
    let mut out = String::new();
    for (i, &c) in chars.iter().enumerate() {
        let starts_word = c.is_uppercase()
            && i > 0
            && (!chars[i - 1].is_uppercase() || chars.get(i + 1).is_some_and(|next| next.is_lowercase()));
        if starts_word {
            out.push('_');
        }
        out.extend(c.to_lowercase());
    }
    out
}

/// The name of a field, which must be no keyword.
pub(super) fn field_name(field: &Field) -> String {
    match snake_case(&field.name).as_str() {
        name @ ("type" | "match") => format!("{name}_"),
        name => name.to_owned(),
    }
}

/// A field in the versions in which its struct can appear.
pub(super) struct Shape<'a> {
    pub(super) field: &'a Field,
    /// The versions that have it.
    pub(super) versions: Versions,
    /// The versions in which it may be null.
    pub(super) nullable: Option<Versions>,
}

impl<'a> Shape<'a> {
    pub(super) fn new(parent: &Struct, field: &'a Field) -> Self {
        let versions = field.versions.intersect(parent.versions).expect("fields of other versions were left out");
        let nullable = field.nullable.and_then(|nullable| nullable.intersect(versions));
        Self { field, versions, nullable }
    }

    pub(super) fn is_error_code(&self) -> bool {
        self.field.ty == Type::Primitive(Primitive::Int16) && self.field.name.ends_with("ErrorCode")
    }

    /// The newtype around the plain value, if there is one.
    pub(super) fn newtype(&self) -> Option<&'static str> {
        if self.is_error_code() {
            return Some("ErrorCode");
        }
        Some(match self.field.entity? {
            Entity::NodeId => "NodeId",
            Entity::ProducerId => "ProducerId",
            Entity::TopicName => "TopicName",
            Entity::GroupId => "GroupId",
            Entity::TransactionalId => "TransactionalId",
        })
    }

    fn plain_type(&self, ty: &Type) -> String {
        match ty {
            Type::Array(element) => format!("Vec<{}>", self.plain_type(element)),
            Type::Struct(name) => name.clone(),
            Type::Primitive(primitive) => match (self.newtype(), primitive) {
                (Some(newtype), _) => newtype,
                (_, Primitive::Bool) => "bool",
                (_, Primitive::Int8) => "i8",
                (_, Primitive::Int16) => "i16",
                (_, Primitive::Uint16) => "u16",
                (_, Primitive::Int32) => "i32",
                (_, Primitive::Int64) => "i64",
                (_, Primitive::Float64) => "f64",
                (_, Primitive::Uuid) => "Uuid",
                (_, Primitive::String) => "StrBytes",
                (_, Primitive::Bytes | Primitive::Records) => "Bytes",
            }
            .to_owned(),
        }
    }

    pub(super) fn rust_type(&self) -> String {
        let plain = self.plain_type(&self.field.ty);
        if self.nullable.is_some() { format!("Option<{plain}>") } else { plain }
    }

    fn defaults_to_null(&self) -> bool {
        let is_records = self.field.ty == Type::Primitive(Primitive::Records);
        self.nullable.is_some() && (is_records || self.field.default.as_deref() == Some("null"))
    }

    /// The number that a numeric field defaults to, as Rust writes it.
    fn default_number(&self) -> String {
        let text = self.field.default.as_deref().unwrap_or("0");
        let text = if text.is_empty() { "0" } else { text };
        match text {
            "0x7fffffff" => "i32::MAX".to_owned(),
            "9223372036854775807" => "i64::MAX".to_owned(),
            "-2147483648" => "i32::MIN".to_owned(),
            decimal => decimal.to_owned(),
        }
    }

    /// True if `Default::default()` of the type is the default of the schema.
    pub(super) fn has_natural_default(&self) -> bool {
        if self.nullable.is_some() {
            return self.defaults_to_null();
        }
        match &self.field.ty {
            Type::Array(_) | Type::Struct(_) => true,
            Type::Primitive(primitive) => match primitive {
                Primitive::Bool => self.field.default.as_deref() != Some("true"),
                Primitive::Uuid | Primitive::Bytes | Primitive::Records => true,
                Primitive::String => self.field.default.as_deref().is_none_or(str::is_empty),
                _ => self.default_number() == "0",
            },
        }
    }

    /// The default of the schema, as an expression.
    pub(super) fn default(&self) -> String {
        if self.defaults_to_null() {
            return "None".to_owned();
        }
        let plain = match &self.field.ty {
            Type::Array(_) => "Vec::new()".to_owned(),
            Type::Struct(name) => format!("{name}::default()"),
            Type::Primitive(primitive) => match primitive {
                Primitive::Bool => (self.field.default.as_deref() == Some("true")).to_string(),
                Primitive::Uuid => "Uuid::ZERO".to_owned(),
                Primitive::Bytes | Primitive::Records => "Bytes::new()".to_owned(),
                Primitive::String => match (self.newtype(), self.field.default.as_deref().unwrap_or("")) {
                    (None, "") => "StrBytes::EMPTY".to_owned(),
                    (newtype, text) => format!("{}::from_static({text:?})", newtype.unwrap_or("StrBytes")),
                },
                Primitive::Float64 => format!("{:?}", self.default_number().parse::<f64>().unwrap_or(0.0)),
                _ => match self.newtype() {
                    Some(newtype) => format!("{newtype}({})", self.default_number()),
                    None => self.default_number(),
                },
            },
        };
        if self.nullable.is_some() { format!("Some({plain})") } else { plain }
    }

    /// True, as an expression, if the field is at its default. `value` is the place, such as `self.name`.
    pub(super) fn is_default(&self, value: &str) -> String {
        if self.defaults_to_null() {
            return format!("{value}.is_none()");
        }
        if self.nullable.is_some() {
            return match &self.field.ty {
                Type::Struct(_) => format!("{value} == {}", self.default()),
                _ => format!("{value}.as_ref().is_some_and(|v| v.is_empty())"),
            };
        }
        match &self.field.ty {
            Type::Array(_) | Type::Primitive(Primitive::Bytes | Primitive::Records) => format!("{value}.is_empty()"),
            Type::Primitive(Primitive::String) if self.has_natural_default() => format!("{value}.is_empty()"),
            Type::Primitive(Primitive::Uuid) => format!("{value}.is_zero()"),
            Type::Primitive(Primitive::Bool) if self.has_natural_default() => format!("!{value}"),
            Type::Primitive(Primitive::Bool) => value.to_owned(),
            _ => format!("{value} == {}", self.default()),
        }
    }

    /// The opposite of [`Shape::is_default`].
    pub(super) fn is_not_default(&self, value: &str) -> String {
        let is_default = self.is_default(value);
        if let Some(inner) = is_default.strip_suffix(".is_none()") {
            format!("{inner}.is_some()")
        } else if let Some(inner) = is_default.strip_prefix('!') {
            inner.to_owned()
        } else if is_default.contains(" == ") {
            is_default.replacen(" == ", " != ", 1)
        } else {
            format!("!{is_default}")
        }
    }

    /// The fewest bytes that the field takes in `version`, which has it.
    pub(super) fn smallest(&self, version: i16, is_flexible: bool, smallest_struct: impl Fn(&str) -> usize) -> usize {
        if self.field.tag.is_some() {
            return 0;
        }
        let is_nullable = self.nullable.is_some_and(|nullable| nullable.contains(version));
        match &self.field.ty {
            Type::Array(_) => {
                if is_flexible {
                    1
                } else {
                    4
                }
            }
            // Null is one byte; a struct that may be null has that byte before it.
            Type::Struct(_) if is_nullable => 1,
            Type::Struct(name) => smallest_struct(name),
            Type::Primitive(primitive) => smallest_primitive(*primitive, is_flexible && !self.field.never_flexible),
        }
    }
}

pub(super) fn smallest_primitive(primitive: Primitive, is_flexible: bool) -> usize {
    match primitive {
        Primitive::Bool | Primitive::Int8 => 1,
        Primitive::Int16 | Primitive::Uint16 => 2,
        Primitive::Int32 => 4,
        Primitive::Int64 | Primitive::Float64 => 8,
        Primitive::Uuid => 16,
        Primitive::String => {
            if is_flexible {
                1
            } else {
                2
            }
        }
        Primitive::Bytes | Primitive::Records => {
            if is_flexible {
                1
            } else {
                4
            }
        }
    }
}

/// `about`, as the lines of a doc comment.
pub(super) fn doc_lines(about: &str, fallback: &str) -> String {
    let about = if about.trim().is_empty() { fallback } else { about };
    let mut lines = vec![String::new()];
    for word in about.split_whitespace() {
        let word = word.replace('[', "\\[").replace(']', "\\]").replace('<', "\\<").replace('*', "\\*");
        let word = if word.starts_with("http") { format!("<{word}>") } else { word };
        let line = lines.last_mut().expect("there is always a line");
        if line.is_empty() {
            *line = word;
        } else if line.len() + word.len() > 105 {
            lines.push(word);
        } else {
            line.push(' ');
            line.push_str(&word);
        }
    }
    lines.iter().map(|line| format!("/// {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_snake_case() {
        for (name, expected) in [
            ("ThrottleTimeMs", "throttle_time_ms"),
            ("KRaftVersion", "k_raft_version"),
            ("IsrNodes", "isr_nodes"),
            ("TopicID", "topic_id"),
        ] {
            assert_eq!(snake_case(name), expected);
        }
    }
}
