//! placeholder until the client is merged
mod resource_type;
pub use self::resource_type::ResourceType;
