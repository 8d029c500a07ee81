//! Hessian 2 values for tests: an encoder that uses every form there is, and a decoder that knows
//! what references mean. Plain and slow, written apart from the product's reader.
#![allow(dead_code, reason = "each test program uses its part")]

use proptest::prelude::*;

use super::mutate::Random;

/// A value, with types and classes by name and references by the number of what they mean.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Int(i32),
    Long(i64),
    /// By its bits, so that every one equals itself.
    Double(u64),
    /// In milliseconds.
    Date(i64),
    /// In UTF-16 units.
    Text(Vec<u16>),
    Binary(Vec<u8>),
    List(Option<String>, Vec<Value>),
    Map(Option<String>, Vec<(Value, Value)>),
    Object(String, Vec<(String, Value)>),
    Reference(u32),
}

impl Value {
    pub(crate) fn text(text: &str) -> Value {
        Value::Text(text.encode_utf16().collect())
    }

    pub(crate) fn map(entries: &[(&str, &str)]) -> Value {
        let entries = entries.iter();
        Value::Map(None, entries.map(|(k, v)| (Value::text(k), Value::text(v))).collect())
    }
}

/// Any value. References may point to nothing: see [`Encoder::put`].
pub(crate) fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any_int().prop_map(Value::Int),
        any_int().prop_map(|int| Value::Long(int.into())),
        any::<i64>().prop_map(Value::Long),
        prop_oneof![
            any::<u64>(),
            any::<i16>().prop_map(|short| f64::from(short).to_bits()),
            any::<i32>().prop_map(|int| (f64::from(int) * 0.001).to_bits()),
        ]
        .prop_map(Value::Double),
        prop_oneof![any::<i64>(), any::<i32>().prop_map(|minutes| i64::from(minutes) * 60_000)]
            .prop_map(Value::Date),
        any_text().prop_map(Value::Text),
        prop::collection::vec(any::<u8>(), 0..40).prop_map(Value::Binary),
        any::<u32>().prop_map(Value::Reference),
    ];
    leaf.prop_recursive(5, 60, 6, |inner| {
        let type_name = prop::option::of("[ab]{1,2}");
        let items = prop::collection::vec(inner.clone(), 0..10);
        let pairs = prop::collection::vec((inner.clone(), inner.clone()), 0..5);
        // Few classes of few fields, so that definitions are used again.
        let object = (0..4_usize).prop_flat_map(move |class| {
            let fields = prop::collection::vec(inner.clone(), class);
            fields.prop_map(move |values| {
                let names = ["x", "y", "z"].into_iter().map(str::to_owned);
                Value::Object(format!("com.foo.C{class}"), names.zip(values).collect())
            })
        });
        prop_oneof![
            (type_name.clone(), items).prop_map(|(name, items)| Value::List(name, items)),
            (type_name, pairs).prop_map(|(name, pairs)| Value::Map(name, pairs)),
            object,
        ]
    })
}

fn any_int() -> impl Strategy<Value = i32> {
    prop_oneof![-20..60, -3000..3000, -300_000..300_000, any::<i32>()]
}

fn any_text() -> impl Strategy<Value = Vec<u16>> {
    prop_oneof![
        "[a-z]{0,40}",
        // With characters of two and three bytes, and of two units.
        "[a-zé中\u{1f600}]{0,12}",
        "[a中]{1000,1100}",
    ]
    .prop_map(|text| text.encode_utf16().collect())
}

/// Writes values into one stream, each number and string in a form drawn by lot.
pub(crate) struct Encoder {
    pub(crate) out: Vec<u8>,
    forms: Random,
    references: u32,
    types: Vec<String>,
    classes: Vec<(String, usize)>,
}

impl Encoder {
    pub(crate) fn new(seed: u64) -> Self {
        let forms = Random::new(seed);
        let (types, classes) = (Vec::new(), Vec::new());
        Encoder { out: Vec::new(), forms, references: 0, types, classes }
    }

    /// Writes `value` and returns what it has become: a reference that points to nothing becomes one
    /// that points to something, or null when there is nothing.
    pub(crate) fn put(&mut self, value: &Value) -> Value {
        match value {
            Value::Null => self.out.push(b'N'),
            Value::Bool(bool) => self.out.push(if *bool { b'T' } else { b'F' }),
            Value::Int(int) => self.int(*int),
            Value::Long(long) => self.long(*long),
            Value::Double(bits) => self.double(*bits),
            Value::Date(milliseconds) => self.date(*milliseconds),
            Value::Text(units) => self.text(units),
            Value::Binary(bytes) => self.binary(bytes),
            Value::Reference(raw) => {
                let Some(index) = raw.checked_rem(self.references) else {
                    self.out.push(b'N');
                    return Value::Null;
                };
                self.out.push(b'Q');
                self.int(index as i32);
                return Value::Reference(index);
            }
            Value::List(name, items) => return self.list(name, items),
            Value::Map(name, entries) => {
                self.references += 1;
                match name {
                    None => self.out.push(b'H'),
                    Some(name) => {
                        self.out.push(b'M');
                        self.type_name(name);
                    }
                }
                let entries = entries.iter();
                let entries = entries.map(|(key, value)| (self.put(key), self.put(value)));
                let entries = entries.collect();
                self.out.push(b'Z');
                return Value::Map(name.clone(), entries);
            }
            Value::Object(class, fields) => {
                let index = self.class(class, fields);
                self.references += 1;
                if index < 16 && self.forms.below(4) > 0 {
                    self.out.push(0x60 + index as u8);
                } else {
                    self.out.push(b'O');
                    self.int(index as i32);
                }
                let fields = fields.iter().map(|(name, value)| (name.clone(), self.put(value)));
                return Value::Object(class.clone(), fields.collect());
            }
        }
        value.clone()
    }

    /// As Java writes a string.
    pub(crate) fn name(&mut self, name: &str) {
        let units: Vec<u16> = name.encode_utf16().collect();
        self.chunk(&units, true, false);
    }

    /// Writes a map whose keys are all in one piece, as attachments must be.
    pub(crate) fn attachments(
        &mut self,
        name: Option<&str>,
        entries: &[(String, Value)],
    ) -> Vec<(String, Value)> {
        self.references += 1;
        match name {
            None => self.out.push(b'H'),
            Some(name) => {
                self.out.push(b'M');
                self.type_name(name);
            }
        }
        let entries = entries.iter().map(|(key, value)| {
            self.name(key);
            (key.clone(), self.put(value))
        });
        let entries = entries.collect();
        self.out.push(b'Z');
        entries
    }

    fn list(&mut self, name: &Option<String>, items: &[Value]) -> Value {
        self.references += 1;
        let len = items.len() as i32;
        let form = self.forms.below(3);
        match (name, form) {
            (None, 0) => self.out.push(b'W'),
            (None, 1) if len < 8 => self.out.push(0x78 + len as u8),
            (None, _) => {
                self.out.push(b'X');
                self.int(len);
            }
            (Some(name), 0) => {
                self.out.push(b'U');
                self.type_name(name);
            }
            (Some(name), 1) if len < 8 => {
                self.out.push(0x70 + len as u8);
                self.type_name(name);
            }
            (Some(name), _) => {
                self.out.push(b'V');
                self.type_name(name);
                self.int(len);
            }
        }
        let items = items.iter().map(|item| self.put(item)).collect();
        if form == 0 {
            self.out.push(b'Z');
        }
        Value::List(name.clone(), items)
    }

    fn class(&mut self, class: &str, fields: &[(String, Value)]) -> usize {
        let known = (class.to_owned(), fields.len());
        if let Some(index) = self.classes.iter().position(|class| *class == known) {
            return index;
        }
        self.out.push(b'C');
        self.name(class);
        self.int(fields.len() as i32);
        for (name, _) in fields {
            self.name(name);
        }
        self.classes.push(known);
        self.classes.len() - 1
    }

    fn type_name(&mut self, name: &str) {
        match self.types.iter().position(|known| known == name) {
            Some(index) if self.forms.below(4) > 0 => self.int(index as i32),
            _ => {
                self.types.push(name.to_owned());
                self.name(name);
            }
        }
    }

    fn int(&mut self, int: i32) {
        // Wider forms than needed are legal.
        let [_, b, c, d] = int.to_be_bytes();
        match self.forms.below(5) {
            0 => self.tagged(b'I', &int.to_be_bytes()),
            _ if (-16..48).contains(&int) => self.out.push((int + 0x90) as u8),
            1.. if (-2048..2048).contains(&int) => self.out.extend([(0xc8 + (int >> 8)) as u8, d]),
            1.. if (-262_144..262_144).contains(&int) => {
                self.out.extend([0xd4_u8.wrapping_add(b), c, d]);
            }
            _ => self.tagged(b'I', &int.to_be_bytes()),
        }
    }

    fn long(&mut self, long: i64) {
        let [.., b, c, d] = long.to_be_bytes();
        match self.forms.below(5) {
            0 => self.tagged(b'L', &long.to_be_bytes()),
            1.. if (-8..16).contains(&long) => self.out.push((long + 0xe0) as u8),
            1.. if (-2048..2048).contains(&long) => {
                self.out.extend([0xf8_u8.wrapping_add(c), d]);
            }
            1.. if (-262_144..262_144).contains(&long) => {
                self.out.extend([0x3c_u8.wrapping_add(b), c, d]);
            }
            _ => match i32::try_from(long) {
                Ok(int) => self.tagged(b'Y', &int.to_be_bytes()),
                Err(_) => self.tagged(b'L', &long.to_be_bytes()),
            },
        }
    }

    fn double(&mut self, bits: u64) {
        let double = f64::from_bits(bits);
        let short = double as i16;
        let thousandths = (double * 1000.0) as i32;
        if bits == 0 {
            self.out.push(0x5b);
        } else if bits == 1_f64.to_bits() {
            self.out.push(0x5c);
        } else if f64::from(short).to_bits() == bits && i8::try_from(short).is_ok() {
            self.out.extend([0x5d, short as u8]);
        } else if f64::from(short).to_bits() == bits {
            self.tagged(0x5e, &short.to_be_bytes());
        } else if (f64::from(thousandths) * 0.001).to_bits() == bits {
            self.tagged(0x5f, &thousandths.to_be_bytes());
        } else {
            self.tagged(b'D', &bits.to_be_bytes());
        }
    }

    fn date(&mut self, milliseconds: i64) {
        match i32::try_from(milliseconds / 60_000) {
            Ok(minutes) if milliseconds % 60_000 == 0 => {
                self.tagged(0x4b, &minutes.to_be_bytes());
            }
            _ => self.tagged(0x4a, &milliseconds.to_be_bytes()),
        }
    }

    fn text(&mut self, mut units: &[u16]) {
        // In chunks, now and then.
        while units.len() > 1 && self.forms.below(6) == 0 {
            let mut at = 1 + self.forms.below(units.len() - 1);
            if (0xd800..0xdc00).contains(&units[at - 1]) {
                at += 1;
            }
            let (chunk, rest) = units.split_at(at);
            if rest.is_empty() {
                break;
            }
            self.chunk(chunk, false, false);
            units = rest;
        }
        let wide = self.forms.below(5) == 0;
        self.chunk(units, true, wide);
    }

    fn chunk(&mut self, units: &[u16], last: bool, wide: bool) {
        let [high, low] = (units.len() as u16).to_be_bytes();
        match (last, units.len()) {
            (false, _) => self.out.extend([b'R', high, low]),
            (true, 0..=31) if !wide => self.out.push(low),
            (true, 0..=1023) if !wide => self.out.extend([0x30 + high, low]),
            (true, _) => self.out.extend([b'S', high, low]),
        }
        for unit in units {
            match unit {
                0..=0x7f => self.out.push(*unit as u8),
                0x80..=0x7ff => {
                    self.out.extend([0xc0 | (unit >> 6) as u8, 0x80 | (unit & 0x3f) as u8]);
                }
                _ => self.out.extend([
                    0xe0 | (unit >> 12) as u8,
                    0x80 | (unit >> 6 & 0x3f) as u8,
                    0x80 | (unit & 0x3f) as u8,
                ]),
            }
        }
    }

    fn binary(&mut self, mut bytes: &[u8]) {
        while bytes.len() > 1 && self.forms.below(4) == 0 {
            let (chunk, rest) = bytes.split_at(1 + self.forms.below(bytes.len() - 1));
            self.tagged(b'A', &(chunk.len() as u16).to_be_bytes());
            self.out.extend(chunk);
            bytes = rest;
        }
        let [high, low] = (bytes.len() as u16).to_be_bytes();
        match (self.forms.below(3), bytes.len()) {
            (1.., 0..=15) => self.out.push(0x20 + low),
            (1, 0..=1023) => self.out.extend([0x34 + high, low]),
            _ => self.out.extend([b'B', high, low]),
        }
        self.out.extend(bytes);
    }

    fn tagged(&mut self, tag: u8, bytes: &[u8]) {
        self.out.push(tag);
        self.out.extend(bytes);
    }
}

/// Reads values from one stream. It panics on what is not well-formed.
pub(crate) struct Decoder<'a> {
    pub(crate) rest: &'a [u8],
    references: u32,
    types: Vec<String>,
    classes: Vec<(String, Vec<String>)>,
}

impl<'a> Decoder<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Decoder { rest: bytes, references: 0, types: Vec::new(), classes: Vec::new() }
    }

    pub(crate) fn value(&mut self) -> Value {
        let tag = self.byte();
        match tag {
            b'N' => Value::Null,
            b'T' => Value::Bool(true),
            b'F' => Value::Bool(false),
            b'I' | 0x80..=0xd7 => Value::Int(self.int(tag)),
            b'L' => Value::Long(i64::from_be_bytes(self.array())),
            b'Y' => Value::Long(i32::from_be_bytes(self.array()).into()),
            0xd8..=0xef => Value::Long(i64::from(tag) - 0xe0),
            0xf0..=0xff => Value::Long((i64::from(tag) - 0xf8) * 256 + i64::from(self.byte())),
            0x38..=0x3f => {
                let low = u16::from_be_bytes(self.array());
                Value::Long((i64::from(tag) - 0x3c) * 65536 + i64::from(low))
            }
            b'D' => Value::Double(u64::from_be_bytes(self.array())),
            0x5b => Value::Double(0),
            0x5c => Value::Double(1_f64.to_bits()),
            0x5d => Value::Double(f64::from(self.byte() as i8).to_bits()),
            0x5e => Value::Double(f64::from(i16::from_be_bytes(self.array())).to_bits()),
            0x5f => Value::Double((f64::from(i32::from_be_bytes(self.array())) * 0.001).to_bits()),
            0x4a => Value::Date(i64::from_be_bytes(self.array())),
            0x4b => Value::Date(i64::from(i32::from_be_bytes(self.array())) * 60_000),
            0..=0x1f | 0x30..=0x33 | b'R' | b'S' => Value::Text(self.text(tag)),
            0x20..=0x2f | 0x34..=0x37 | b'A' | b'B' => Value::Binary(self.binary(tag)),
            b'C' => {
                let (class, count) = (self.name(), self.next_int());
                let fields = (0..count).map(|_| self.name()).collect();
                self.classes.push((class, fields));
                self.value()
            }
            b'O' => {
                let class = self.next_int() as usize;
                self.object(class)
            }
            0x60..=0x6f => self.object(usize::from(tag) - 0x60),
            b'Q' => {
                let index = self.next_int() as u32;
                assert!(index < self.references, "a reference to nothing");
                Value::Reference(index)
            }
            b'H' => self.map(None),
            b'M' => {
                let name = self.type_name();
                self.map(Some(name))
            }
            b'W' => self.list(None, None),
            b'U' => {
                let name = self.type_name();
                self.list(Some(name), None)
            }
            b'X' => {
                let count = self.next_int();
                self.list(None, Some(count))
            }
            b'V' => {
                let (name, count) = (self.type_name(), self.next_int());
                self.list(Some(name), Some(count))
            }
            0x70..=0x77 => {
                let name = self.type_name();
                self.list(Some(name), Some(i32::from(tag) - 0x70))
            }
            0x78..=0x7f => self.list(None, Some(i32::from(tag) - 0x78)),
            _ => panic!("tag {tag:#x}"),
        }
    }

    fn object(&mut self, class: usize) -> Value {
        self.references += 1;
        let (class, fields) = self.classes[class].clone();
        Value::Object(class, fields.into_iter().map(|name| (name, self.value())).collect())
    }

    fn map(&mut self, name: Option<String>) -> Value {
        self.references += 1;
        let mut entries = Vec::new();
        while !self.end() {
            entries.push((self.value(), self.value()));
        }
        Value::Map(name, entries)
    }

    fn list(&mut self, name: Option<String>, count: Option<i32>) -> Value {
        self.references += 1;
        let mut items = Vec::new();
        match count {
            Some(count) => items.extend((0..count).map(|_| self.value())),
            None => {
                while !self.end() {
                    items.push(self.value());
                }
            }
        }
        Value::List(name, items)
    }

    fn end(&mut self) -> bool {
        let is_end = self.rest[0] == b'Z';
        if is_end {
            self.rest = &self.rest[1..];
        }
        is_end
    }

    fn type_name(&mut self) -> String {
        if matches!(self.rest[0], 0x80..=0xd7 | b'I') {
            let index = self.next_int() as usize;
            return self.types[index].clone();
        }
        let name = self.name();
        self.types.push(name.clone());
        name
    }

    fn name(&mut self) -> String {
        let tag = self.byte();
        String::from_utf16(&self.text(tag)).expect("a name")
    }

    fn text(&mut self, tag: u8) -> Vec<u16> {
        let count = match tag {
            0..=0x1f => usize::from(tag),
            0x30..=0x33 => usize::from(tag - 0x30) * 256 + usize::from(self.byte()),
            b'R' | b'S' => usize::from(u16::from_be_bytes(self.array())),
            _ => panic!("no string: {tag:#x}"),
        };
        let mut units: Vec<u16> = (0..count).map(|_| self.unit()).collect();
        if tag == b'R' {
            let tag = self.byte();
            units.extend(self.text(tag));
        }
        units
    }

    fn unit(&mut self) -> u16 {
        let lead = u16::from(self.byte());
        let mut more = || u16::from(self.byte() & 0x3f);
        match lead {
            0..=0x7f => lead,
            0xc0..=0xdf => (lead & 0x1f) << 6 | more(),
            0xe0..=0xef => (lead & 0xf) << 12 | more() << 6 | more(),
            _ => panic!("a character of {lead:#x}"),
        }
    }

    fn binary(&mut self, tag: u8) -> Vec<u8> {
        let count = match tag {
            0x20..=0x2f => usize::from(tag - 0x20),
            0x34..=0x37 => usize::from(tag - 0x34) * 256 + usize::from(self.byte()),
            b'A' | b'B' => usize::from(u16::from_be_bytes(self.array())),
            _ => panic!("no binary: {tag:#x}"),
        };
        let mut bytes = self.rest[..count].to_vec();
        self.rest = &self.rest[count..];
        if tag == b'A' {
            let tag = self.byte();
            bytes.extend(self.binary(tag));
        }
        bytes
    }

    fn next_int(&mut self) -> i32 {
        let tag = self.byte();
        self.int(tag)
    }

    fn int(&mut self, tag: u8) -> i32 {
        match tag {
            0x80..=0xbf => i32::from(tag) - 0x90,
            0xc0..=0xcf => (i32::from(tag) - 0xc8) * 256 + i32::from(self.byte()),
            0xd0..=0xd7 => {
                (i32::from(tag) - 0xd4) * 65536 + i32::from(u16::from_be_bytes(self.array()))
            }
            b'I' => i32::from_be_bytes(self.array()),
            _ => panic!("no int: {tag:#x}"),
        }
    }

    fn byte(&mut self) -> u8 {
        let [byte] = self.array();
        byte
    }

    fn array<const LEN: usize>(&mut self) -> [u8; LEN] {
        let (array, rest) = self.rest.split_first_chunk().expect("more bytes");
        self.rest = rest;
        *array
    }
}
