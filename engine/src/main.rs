//! The binary: reads the command line and serves what it says.

use std::process::ExitCode;

use outrigger_engine::cli::Invocation;
use outrigger_engine::server::{Extras, ServerError, load_config, log_pattern, operate_on, serve};
use outrigger_engine::tls::TlsContexts;
use outrigger_engine::{demo, memory};
use outrigger_xds::bootstrap;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    memory::prefer_small_pages();
    // Pays for the registration of process-wide barriers while there is only one thread.
    glommio::early_init();
    match run(Invocation::from_process()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("outrigger: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(invocation: Invocation) -> Result<(), ServerError> {
    match invocation {
        Invocation::Serve(config, process) => serve(&config.read()?, &process, Extras::default()),
        Invocation::Validate(config, process) => {
            let loaded = load_config(&config.read()?, &process)?;
            for warning in &loaded.warnings {
                eprintln!("warning: {warning}");
            }
            log_pattern(&loaded, &process)?;
            TlsContexts::build(&loaded.snapshot)?;
            println!("configuration OK");
            Ok(())
        }
        Invocation::Operate(operation, socket, process) => {
            println!("{}", operate_on(&operation, &socket, &process)?);
            Ok(())
        }
        Invocation::Forward(forward, process) => {
            serve(&forward.source()?, &process, Extras::default())
        }
        Invocation::Demo(process) => {
            let origin = demo::bind_origin()?;
            let source = bootstrap::demo(origin.local_addr()?);
            let extras = Extras { demo_origin: Some(origin), banner: Some(demo::banner()) };
            serve(&source, &process, extras)
        }
    }
}
