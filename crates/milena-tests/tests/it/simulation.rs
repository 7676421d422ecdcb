//! A few seeds of the simulation; `cargo xtask simulate` runs thousands.

use milena_tests::simulation;

#[test]
fn seeds_keep_every_promise() {
    for seed in 0..16 {
        let report = simulation::run(seed, false).unwrap();
        let violations = report.violations;
        assert!(violations.is_empty(), "cargo xtask simulate --seed {seed}: {violations:#?}");
    }
}

#[test]
fn a_seed_does_the_same_again_and_another_does_not() {
    let run = |seed| simulation::run(seed, false).unwrap().hash;
    for seed in 16..20 {
        assert_eq!(run(seed), run(seed), "seed {seed}");
        assert_ne!(run(seed), run(seed + 10), "seed {seed}");
    }
}
