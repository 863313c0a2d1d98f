//! Header fields, made in one piece and never changed.

use wasmtime::component::Resource;
use wasmtime_wasi_http::{FieldMap, FieldMapError};

use super::Http;
use super::generated::wasi::http::types::{HeaderError, HostFields};

/// What a field takes beside its bytes: an allocation for its name, one for its value, and a look at each.
const ENTRY: usize = 256;

/// What the fields of one `fields` may take in memory, as wasmtime-wasi-http counts: its own limit.
const LIMIT: usize = 128 << 10;

pub struct Fields(pub(super) FieldMap);

impl HostFields for Http {
    fn from_list(
        &mut self,
        entries: Vec<(String, Vec<u8>)>,
    ) -> wasmtime::Result<Result<Resource<Fields>, HeaderError>> {
        let bytes = entries.iter().map(|(name, value)| ENTRY + name.len() + value.len()).sum();
        self.hand_over(bytes)?;
        let mut fields = FieldMap::new_mutable(LIMIT);
        for (name, value) in entries {
            match fields.append(&mut self.exit, name, value) {
                Ok(_) => {}
                Err(FieldMapError::Forbidden) => return Ok(Err(HeaderError::Forbidden)),
                Err(FieldMapError::Immutable) => return Ok(Err(HeaderError::Immutable)),
                Err(FieldMapError::InvalidHeaderName | FieldMapError::InvalidHeaderValue) => {
                    return Ok(Err(HeaderError::InvalidSyntax));
                }
                Err(limit @ (FieldMapError::TooManyFields | FieldMapError::TotalSizeTooBig)) => {
                    return Err(limit.into());
                }
            }
        }
        Ok(Ok(self.handles.push(Fields(fields))?))
    }

    fn drop(&mut self, fields: Resource<Fields>) -> wasmtime::Result<()> {
        self.handles.delete(&fields)?;
        Ok(())
    }
}
