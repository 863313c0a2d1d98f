//! The engine that runs a component: its settings, what it compiles, and what it keeps of that.

use wasmtime::component::Component;
use wasmtime::{Cache, CacheConfig, Config, Engine, PoolingAllocationConfig};

use super::Limits;
use super::exports::BindingPre;
use super::state::{WasiHttp, linker};

/// Of each slot's memory, what is kept and cleared by hand between calls instead of being returned to the
/// kernel. More than the component's initial memory, less than a large message needs. Without it every call
/// costs 8 page faults and 3 madvise calls, and on several threads a TLB shoot-down for each.
pub(super) const KEEP_RESIDENT: usize = 256 << 10;

/// The stack of the fibre on which a call runs: the component's own stack is in its memory, this one holds
/// compiled frames and host functions. Only what is used takes memory.
const ASYNC_STACK: usize = 256 << 10;

/// Of that, what compiled frames may take.
const WASM_STACK: usize = 64 << 10;

/// The engine's settings; public for measuring other components with the same ones.
#[doc(hidden)]
pub fn config(limits: &Limits) -> Config {
    let mut pool = PoolingAllocationConfig::new();
    let instances = limits.instances.saturating_mul(2);
    pool.total_component_instances(instances)
        // A component is several core instances: its module and what wit-component puts around it.
        .total_core_instances(instances.saturating_mul(4))
        .total_memories(instances)
        .total_tables(instances.saturating_mul(2))
        .total_stacks(instances)
        .max_memories_per_component(1)
        .max_tables_per_component(2)
        .max_memory_size(limits.memory)
        // The component's table of functions has some 60 entries; the default of 20,000 is cleared per call.
        .table_elements(256)
        .linear_memory_keep_resident(KEEP_RESIDENT)
        .table_keep_resident(64 << 10);
    let mut config = common(limits);
    config.allocation_strategy(pool).memory_init_cow(true);
    config
}

/// The settings that do not depend on where memory comes from.
pub(super) fn common(limits: &Limits) -> Config {
    let mut config = Config::new();
    config.memory_reservation(limits.memory as u64).memory_guard_size(64 << 10).memory_may_move(false);
    config.async_stack_size(ASYNC_STACK).max_wasm_stack(WASM_STACK);
    config.consume_fuel(true);
    keep_compiled(&mut config);
    config
}

/// Has compiled code kept from one start to the next. Without a place for it (a read-only file system, no home), it is
/// compiled at every start: 100 ms for the binding, which are no reason to fail.
pub(crate) fn keep_compiled(config: &mut Config) {
    match Cache::new(CacheConfig::new()) {
        Ok(cache) => {
            config.cache(Some(cache));
        }
        Err(error) => tracing::debug!(%error, "compiled code is not cached"),
    }
}

pub(super) fn compile(component: &[u8], limits: &Limits) -> wasmtime::Result<Component> {
    Component::from_binary(&Engine::new(&config(limits))?, component)
}

pub(super) fn link(component: &Component, http: WasiHttp) -> wasmtime::Result<BindingPre> {
    BindingPre::new(linker(component.engine(), http)?.instantiate_pre(component)?)
}
