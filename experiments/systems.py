"""The systems of the literature: the class of each, a command, the tests of its formulas, and what it reached here.

    python experiments/systems.py            # prints the page
    python experiments/systems.py --write    # writes docs/systems.md

``tests/experiments/test_systems.py`` checks that classes and tests exist, and runs the commands, made smaller.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/systems.md"
SEARCH = "oneshot search --config experiments/digits/search.yaml"
CELLS = "oneshot discrete --config experiments/discrete/cells.yaml"
ENCODINGS = "oneshot discrete --config experiments/discrete/encodings.yaml"
NASNET = "oneshot discrete --config experiments/discrete/nasnet.yaml"
TABLE = "oneshot discrete --strategy oneshot.discrete.RegularizedEvolution --evaluator oneshot.discrete."
METHODS, STRATEGIES, SUPERNETS = "tests/methods/test_", "tests/discrete/strategies/test_", "tests/supernets/test_"


@dataclass(frozen=True)
class System:
    """A system of the literature.

    Args:
        name: What the field calls it.
        papers: Where it is described, as arXiv ids.
        classes: Public names below ``oneshot``.
        command: What runs it from the root of the repository; ``--out`` comes behind it.
        tests: Tests of its formulas and networks.
        here: What it reached on the machines of this project, and where that is described; empty if not measured.
        published: What the paper reports.
        missing: What of the system is left out.
    """

    name: str
    papers: tuple[str, ...]
    classes: tuple[str, ...]
    command: str
    tests: tuple[str, ...]
    here: str = ""
    published: str = ""
    missing: str = ""

    @property
    def folder(self) -> str:
        """A name for the results of the command."""
        return "runs/" + "".join(c if c.isalnum() else "-" for c in self.name.lower()).strip("-")


FAMILIES: dict[str, list[System]] = {
    "Reinforcement learning": [
        System(
            "NAS with reinforcement learning",
            ("1611.01578",),
            ("discrete.REINFORCE", "discrete.ZophLeSpace", "supernets.RecurrentSpace"),
            f"{ENCODINGS} --evaluator.init_args.build oneshot.discrete.ZophLeSpace"
            " --evaluator.init_args.build.init_args.layers 3 --strategy oneshot.discrete.REINFORCE",
            (
                f"{STRATEGIES}reinforce.py::test_one_update_descends_the_loss_with_adam",
                f"{STRATEGIES}reinforce.py::test_rewards_are_those_of_the_paper",
                f"{STRATEGIES}zoph_le.py::test_the_bits_of_an_anchor_are_the_skip_connections_into_its_layer",
            ),
            "Regret on NATS-Bench after 150 queries 0.177 ± 0.044 (public code on the same table: 0.404);"
            " `experiments/discrete/README.md`",
            "3.65 % error on CIFAR-10, perplexity 62.4 on Penn Treebank (64.0 with 25 million parameters); 12,800"
            " networks",
            "strides as decisions; the tree of the recurrent cell (the space of DARTS and ENAS takes its place)",
        ),
        System(
            "NASNet",
            ("1707.07012",),
            ("discrete.PPO", "supernets.NASNetSpace", "supernets.NASNetNetwork"),
            NASNET,
            (
                f"{STRATEGIES}ppo.py::test_the_loss_is_that_of_the_paper_for_every_decision",
                f"{STRATEGIES}ppo.py::test_defaults_are_those_of_nasnet",
                f"{SUPERNETS}nasnet.py::test_published_networks_have_the_published_number_of_parameters",
                f"{SUPERNETS}nasnet.py::test_scheduled_drop_path_equals_what_the_code_of_nasnet_keeps",
                "tests/deploy/test_detection.py::test_a_detector_learns_to_find_rectangles",
            ),
            "NASNet-A as the backbone of a detector of generated boxes: recall 0.99; `experiments/detection/README.md`",
            "2.40 % error on CIFAR-10, 82.7 % on ImageNet, 43.1 mAP on COCO",
            "trainings at that size; detection is shown on generated images only",
        ),
        System(
            "ENAS",
            ("1802.03268",),
            ("ENAS",),
            f"{SEARCH} --model oneshot.ENAS",
            (
                f"{METHODS}enas.py::test_the_controller_learns_what_is_accurate_and_nothing_else_moves",
                f"{METHODS}enas.py::test_the_baseline_holds_the_rewards_before_the_current_one_and_stays_in_the_state",
                f"{METHODS}enas.py::test_defaults_are_those_of_the_authors_for_cells",
            ),
            "NAS-Bench-201, half a minute of search: 79.2 ± 10.3 %, no better than chance (80.6 ± 4.7 %);"
            " `experiments/discrete/README.md`",
            "2.89 % error on CIFAR-10; NAS-Bench-201: 54.30 %",
            "the bounds for operations and the biases towards convolutions of the authors' code; the macro space",
        ),
        System(
            "MnasNet",
            ("1807.11626",),
            ("discrete.MnasNet", "discrete.MnasNetScalar"),
            f"{CELLS} --strategy oneshot.discrete.MnasNet --strategy.init_args.target 1"
            ' --objectives "[max accuracy, min latency]"',
            (
                f"{STRATEGIES}mnasnet.py::test_the_reward_is_accuracy_times_a_power_of_the_latency",
                f"{STRATEGIES}mnasnet.py::test_twice_the_latency_is_worth_five_percent_of_accuracy",
            ),
            "Accel-NASBench by MnasNet's reward, 500 queries: PPO has a regret of 0.031 ± 0.011;"
            " `experiments/discrete/README.md`",
            "75.2 % on ImageNet in 78 ms on a Pixel phone",
            "a phone: latency is measured where the command runs, or comes from a file",
        ),
    ],
    "Evolution": [
        System(
            "Large-scale evolution",
            ("1703.01041",),
            ("discrete.LargeScaleEvolution",),
            "oneshot discrete --config experiments/discrete/digits.yaml --strategy oneshot.discrete.LargeScaleEvolution"
            ' --strategy.init_args.start "[[4, 8]]" --objectives "[max accuracy]"',
            (
                f"{STRATEGIES}morphing.py::test_the_worse_of_two_dies",
                f"{STRATEGIES}morphing.py::test_every_parent_in_large_scale_evolution_has_weights_of_its_own",
                "tests/discrete/evaluators/test_training.py::test_another_architecture_inherits_the_weights_that_fit",
            ),
            published="5.4 % error on CIFAR-10, 2,750 GPU days",
            missing="mutations of the learning rate and of strides",
        ),
        System(
            "Genetic CNN",
            ("1703.01513",),
            ("discrete.GeneticCNN", "discrete.GeneticCNNSpace"),
            ENCODINGS,
            (
                f"{STRATEGIES}encodings.py::test_bits_of_a_stage_are_its_wiring",
                f"{STRATEGIES}encodings.py::test_the_roulette_is_proportional_to_what_exceeds_the_worst",
                f"{STRATEGIES}encodings.py::test_crossover_swaps_whole_stages",
            ),
            "Regret on NATS-Bench after 150 queries 0.035 ± 0.007 (100 seeds); `experiments/discrete/README.md`",
            "7.10 % error on CIFAR-10",
        ),
        System(
            "CGP-CNN",
            ("1704.00764",),
            ("discrete.CGPCNN", "discrete.CGPSpace"),
            f"{ENCODINGS} --evaluator.init_args.build oneshot.discrete.CGPSpace"
            " --evaluator.init_args.build.init_args.rows 3 --evaluator.init_args.build.init_args.columns 8"
            " --evaluator.init_args.build.init_args.levels_back 4"
            ' --evaluator.init_args.build.init_args.channels "[8, 16]" --strategy oneshot.discrete.CGPCNN',
            (
                f"{STRATEGIES}encodings.py::test_a_grid_is_run_as_its_functions_say",
                f"{STRATEGIES}encodings.py::test_genes_are_active_exactly_if_they_matter",
                f"{STRATEGIES}encodings.py::test_the_parent_is_replaced_by_the_best_child_and_drifts_if_none_is_better",
            ),
            published="5.98 % error on CIFAR-10 (ResSet)",
        ),
        System(
            "Hierarchical representations",
            ("1711.00436",),
            ("discrete.TournamentEvolution", "discrete.HierarchicalSpace"),
            f"{ENCODINGS} --evaluator.init_args.build oneshot.discrete.HierarchicalSpace"
            " --evaluator.init_args.build.init_args.channels 8 --evaluator.init_args.build.init_args.stages 2"
            " --strategy oneshot.discrete.TournamentEvolution --strategy.init_args.population 6",
            (
                f"{STRATEGIES}encodings.py::test_a_cell_runs_its_motifs_and_those_their_primitives",
                f"{STRATEGIES}encodings.py::test_the_best_of_a_tournament_is_mutated_and_nobody_dies",
                f"{STRATEGIES}encodings.py::test_random_cells_are_many_mutations_away_from_the_trivial_one",
            ),
            "Tournament evolution on NATS-Bench, 150 queries: regret 0.145 ± 0.005 (1,000 seeds);"
            " `experiments/discrete/README.md`",
            "3.63 ± 0.10 % error on CIFAR-10, 20.3 % on ImageNet",
        ),
        System(
            "AmoebaNet",
            ("1802.01548",),
            ("discrete.RegularizedEvolution", "supernets.NASNetSpace"),
            f"{NASNET} --strategy oneshot.discrete.RegularizedEvolution --strategy.init_args.population 8"
            " --strategy.init_args.sample 3",
            (
                f"{STRATEGIES}evolution.py::test_the_oldest_dies_even_if_it_is_the_best",
                f"{STRATEGIES}nasnet.py::test_evolution_of_amoebanet_moves_by_inputs_and_operations",
                f"{SUPERNETS}nasnet.py::test_published_networks_have_the_published_number_of_parameters",
            ),
            "Regret on NATS-Bench after 150 queries 0.025 ± 0.003, 1,000 seeds (public code: 0.078 to 0.138);"
            " `experiments/discrete/README.md`",
            "3.34 ± 0.06 % error on CIFAR-10, 83.9 % on ImageNet",
        ),
        System(
            "CoDeepNEAT",
            ("1703.00548",),
            ("discrete.CoDeepNEAT",),
            "oneshot discrete --config experiments/discrete/codeepneat.yaml",
            (
                f"{STRATEGIES}neat.py::test_the_compatibility_distance_is_that_of_the_reference",
                f"{STRATEGIES}neat.py::test_genomes_go_to_the_species_of_the_reference",
                f"{STRATEGIES}codeepneat.py::test_the_fitness_of_parts_is_the_average_of_the_reference",
            ),
            here="Digits, 60 networks of 3 epochs, three seeds: 4.7 ± 1.9 % validation error, random networks of the"
            " same kind 5.6 ± 1.5 %; `experiments/discrete/README.md`",
            published="7.3 % error on CIFAR-10",
            missing="hyper-parameters of the training as genes; recurrent networks",
        ),
    ],
    "Bayesian optimisation and predictors": [
        System(
            "BANANAS",
            ("1910.11858",),
            ("discrete.BANANAS",),
            f"{CELLS} --strategy oneshot.discrete.BANANAS --strategy.init_args.initial 10",
            (
                f"{STRATEGIES}bananas.py::test_nas_bench_101_has_the_364_paths_of_the_paper",
                f"{STRATEGIES}bananas.py::test_a_round_ranks_by_independent_draws",
                f"{STRATEGIES}bananas.py::test_the_ensemble_learns_and_its_networks_differ",
            ),
            "Regret on NATS-Bench after 150 queries 0.025 ± 0.009, 100 seeds (public code: 0.059);"
            " a Gaussian process finds the optimum in 100 of 100 runs; `experiments/discrete/README.md`",
            "2.57 % error on CIFAR-10 in the space of DARTS, the best run",
        ),
        System(
            "Neural Architect",
            ("1806.07912",),
            ("discrete.NeuralArchitect",),
            f"{CELLS} --strategy oneshot.discrete.NeuralArchitect",
            (
                f"{STRATEGIES}neural_architect.py::test_edits_are_a_distribution_over_all_that_change_one_gene",
                f"{STRATEGIES}neural_architect.py::test_every_violated_constraint_multiplies_the_performance",
            ),
            "Finds the optimum of NATS-Bench in 20 of 20 runs of 150 queries; `experiments/discrete/README.md`",
        ),
    ],
    "Network morphisms": [
        System(
            "NASH",
            ("1711.04528",),
            ("discrete.NASH",),
            "oneshot discrete --config experiments/discrete/digits.yaml --strategy oneshot.discrete.NASH"
            ' --strategy.init_args.start "[[4, 8]]" --objectives "[max accuracy]"',
            (
                f"{STRATEGIES}morphing.py::"
                "test_nash_trains_the_unchanged_network_among_its_neighbours_and_goes_on_from_the_best",
                "tests/discrete/graphs/test_morphism.py::test_so_do_they_on_thirty_more_graphs",
            ),
            "CIFAR-10 at 16 pixels, 150 CPU seconds: 54.2 ± 0.5 % error, from scratch for as long 49.2 ± 0.8 %;"
            " `experiments/discrete/README.md`",
            "below 6 % error on CIFAR-10 in 12 hours on one GPU, almost 5 % in a day",
        ),
        System(
            "LEMONADE",
            ("1804.09081",),
            ("discrete.LEMONADE",),
            "oneshot discrete --config experiments/discrete/digits.yaml",
            (
                f"{STRATEGIES}morphing.py::test_chances_are_one_over_the_kernel_density",
                f"{STRATEGIES}morphing.py::test_lemonades_population_is_the_front",
            ),
            "CIFAR-10 at 16 pixels, 150 CPU seconds: hypervolume 0.336 ± 0.039, random graphs 0.215 ± 0.007;"
            " `experiments/discrete/README.md`",
            "error on CIFAR-10: 4.57 % with 0.5 million parameters, 2.58 % with 13.1 million",
        ),
        System(
            "NetAdapt and MobileNetV3",
            ("1804.03230", "1905.02244"),
            ("discrete.NetAdapt", "supernets.MobileNetV3Network"),
            "oneshot discrete --config experiments/discrete/digits.yaml --strategy oneshot.discrete.NetAdapt"
            ' --strategy.init_args.start "[[16, 16]]" --strategy.init_args.target 25000'
            ' --objectives "[max accuracy, min macs]"',
            (
                f"{STRATEGIES}morphing.py::test_netadapt_prunes_to_its_target_step_by_step",
                f"{STRATEGIES}morphing.py::test_netadapt_chooses_by_accuracy_or_by_what_accuracy_costs",
                f"{SUPERNETS}mobilenetv3.py::test_the_shapes_are_those_of_the_paper",
            ),
            "Digits, half of the MACs, trained on: 2.3 ± 0.8 % error, as the network it began with;"
            " `experiments/discrete/README.md`",
            "MobileNetV3-Large: 75.2 % on ImageNet",
        ),
    ],
    "Shared weights": [
        System(
            "One-shot, single path",
            ("1907.01845",),
            ("FairNAS", "evaluate_configs"),
            f"{SEARCH} --model oneshot.FairNAS",
            (
                f"{METHODS}fairnas.py::test_paths_are_strictly_fair_and_every_combination_is_equally_likely",
                f"{METHODS}fairnas.py::test_the_gradients_of_all_paths_are_added_up_before_one_step",
            ),
            "NAS-Bench-Macro, 40,000 images of CIFAR-10 at 16 pixels, 25 epochs: Kendall tau 0.780;"
            " `experiments/nat/README.md`",
        ),
        System(
            "Random search with shared weights",
            ("1902.07638",),
            ("RandomSharing",),
            f"{SEARCH} --model oneshot.RandomSharing",
            (
                f"{METHODS}random_sharing.py::test_every_step_draws_one_path_uniformly_and_none_that_is_nothing",
                f"{METHODS}random_sharing.py::test_defaults_are_those_of_the_authors",
            ),
            "NAS-Bench-201, 12 epochs of 4,000 images: 81.76 ± 10.23 %; `experiments/compare/README.md`",
            "NAS-Bench-201: 87.66 ± 1.69 %",
        ),
        System(
            "NAT",
            ("2005.05859",),
            ("NAT",),
            "oneshot pareto --config experiments/nat/digits.yaml",
            (
                "tests/nat/test_nat.py::test_the_turns_of_training_and_search",
                "tests/nat/test_nat.py::test_archive_draws_follow_its_categorical_distributions",
                "tests/nat/test_search.py::test_it_finds_a_better_front_than_random_search",
            ),
            "Fronts on tables, 104 evaluations: 99.7 % of the hypervolume of NAS-Bench-Macro, 98.5 % of NATS-Bench"
            " (NSGA-II 91.0 and 94.3 %); `experiments/nat/README.md`. One network, five data sets:"
            " `experiments/transfer/README.md`",
            "98.4 % on CIFAR-10, 80.5 % on ImageNet with 600 million MACs",
            "trainings at the size of the paper; its settings are in `experiments/nat/published`",
        ),
    ],
    "Gradients": [
        System(
            "DARTS",
            ("1806.09055",),
            ("DARTS", "supernets.DARTSSupernet", "supernets.RecurrentSupernet"),
            SEARCH,
            (
                "tests/reference/test_bilevel.py::test_our_gradient_equals_the_papers_formula_to_rounding_error",
                "tests/reference/test_bilevel.py::"
                "test_second_order_agrees_with_autograd_through_the_step_of_any_known_optimiser",
                "tests/reference/test_networks.py::test_darts_v2_has_the_published_number_of_parameters",
                "tests/reference/test_recurrent.py::test_the_supernet_is_the_textbooks",
            ),
            "NAS-Bench-201, 12 epochs of 4,000 images: 91.00 ± 2.35 %; `experiments/compare/README.md`",
            "2.76 ± 0.09 % error on CIFAR-10; NAS-Bench-201 (50 epochs): 54.30 %, a collapse",
        ),
        System(
            "PC-DARTS",
            ("1907.05737",),
            ("PCDARTS",),
            f"{SEARCH} --model oneshot.PCDARTS --model.supernet.init_args.partial_channels 4",
            (
                f"{METHODS}pcdarts.py::test_a_partial_mixture_is_the_papers",
                f"{METHODS}pcdarts.py::test_the_architecture_is_derived_from_the_product_of_both_weights",
            ),
            "NAS-Bench-201, 12 epochs of 4,000 images: 91.26 ± 2.84 %; `experiments/compare/README.md`",
            "2.57 ± 0.07 % error on CIFAR-10; NAS-Bench-201: 93.41 ± 0.30 %",
        ),
        System(
            "SNAS",
            ("1812.09926",),
            ("SNAS",),
            f"{SEARCH} --model oneshot.SNAS --data oneshot.data.Digits --data.val_fraction 0.1",
            (
                f"{METHODS}gumbel_gradients.py::test_snas_takes_one_gradient_for_alphas_and_weights",
                f"{METHODS}gumbel_gradients.py::test_the_comparison_tells_a_resource_term_that_is_missing",
            ),
            "NAS-Bench-201, 12 epochs of 4,000 images: 84.07 ± 10.88 %; `experiments/compare/README.md`",
            "2.85 ± 0.02 % error on CIFAR-10; NAS-Bench-201: 92.77 ± 0.83 %",
        ),
        System(
            "GDAS",
            ("1910.04465",),
            ("GDAS",),
            f"{SEARCH} --model oneshot.GDAS",
            (
                f"{METHODS}gdas.py::test_the_gradient_of_the_alphas_is_the_textbooks",
                f"{METHODS}gdas.py::test_only_the_drawn_candidates_run",
            ),
            "NAS-Bench-201, 12 epochs of 4,000 images: 88.61 ± 2.63 %; `experiments/compare/README.md`",
            "2.93 % error on CIFAR-10; NAS-Bench-201: 93.61 ± 0.09 %",
        ),
        System(
            "ProxylessNAS",
            ("1812.00332",),
            ("ProxylessNAS", "supernets.ProxylessSupernet"),
            f"{SEARCH} --model oneshot.ProxylessNAS",
            (
                f"{METHODS}proxylessnas.py::test_the_gradient_of_two_paths_is_the_papers",
                f"{METHODS}proxylessnas.py::test_reinforce_is_unbiased_whatever_the_baseline",
                f"{SUPERNETS}proxyless.py::test_proxyless_mobile_has_the_released_size_and_cost",
            ),
            "NAS-Bench-201, 12 epochs of 4,000 images: 71.23 ± 17.74 %; `experiments/compare/README.md`",
            "2.08 % error on CIFAR-10, 74.6 % on ImageNet in 78 ms",
        ),
        System(
            "FairDARTS",
            ("1911.12126",),
            ("FairDARTS",),
            f"{SEARCH} --model oneshot.FairDARTS",
            (
                f"{METHODS}fairdarts.py::test_the_zero_one_loss_is_the_mean_square_from_a_half_with_a_minus",
                f"{METHODS}fairdarts.py::test_a_node_keeps_at_most_two_edges_above_the_threshold_or_none_at_all",
            ),
            published="2.54 % error on CIFAR-10",
        ),
        System(
            "RobustDARTS",
            ("1909.09656",),
            ("RobustDARTS",),
            f"{SEARCH} --model oneshot.RobustDARTS",
            (
                f"{METHODS}robustdarts.py::test_the_largest_eigenvalue_is_that_of_the_whole_matrix",
                f"{METHODS}robustdarts.py::test_the_sharp_rise_is_found_where_the_authors_find_it",
                f"{METHODS}robustdarts.py::test_adaptive_regularisation_goes_back_and_on_with_ten_times_the_decay",
            ),
            "NAS-Bench-201, 12 epochs of 4,000 images: 89.60 ± 2.86 %; `experiments/compare/README.md`",
            "2.95 ± 0.21 % error on CIFAR-10; in S1 to S4 DARTS has 3.84, 4.85, 3.34, 7.20 %",
            "S1 to S4 at full size: `experiments/robust` trains too little for skip connections to cost anything",
        ),
        System(
            "SmoothDARTS",
            ("2002.05283",),
            ("SmoothDARTS",),
            f"{SEARCH} --model oneshot.SmoothDARTS",
            (
                f"{METHODS}smoothdarts.py::test_the_attack_is_the_papers",
                f"{METHODS}smoothdarts.py::test_an_attack_with_a_mistake_is_another",
                f"{METHODS}smoothdarts.py::test_random_noise_is_of_size_epsilon_and_no_larger",
            ),
            "NAS-Bench-201, 12 epochs of 4,000 images: 90.10 ± 3.05 %; `experiments/compare/README.md`",
            "2.61 ± 0.02 % error on CIFAR-10",
        ),
        System(
            "DARTS-PT",
            ("2108.04392",),
            ("DARTSPT",),
            f"{SEARCH} --model oneshot.DARTSPT --model.train_epochs null --model.tune_epochs 0",
            (
                f"{METHODS}dartspt.py::test_every_node_keeps_the_two_edges_it_misses_most_and_none_is_not_picked",
                f"{METHODS}dartspt.py::test_decisions_follow_one_another_with_tuning_in_between",
            ),
            "NAS-Bench-201, 12 epochs of 4,000 images, fixed alphas: 92.78 ± 0.88 % (six seeds);"
            " `experiments/compare/README.md`",
            "2.61 ± 0.08 % error on CIFAR-10; NAS-Bench-201, fixed alphas: 93.80 %",
        ),
    ],
    "Hardware": [
        System(
            "FBNet",
            ("1812.03443",),
            ("FBNet", "supernets.FBNetSupernet", "cost.LatencyTable"),
            f"{SEARCH} --model oneshot.FBNet --model.penalty oneshot.cost.CostPenalty"
            " --model.penalty.init_args.cost macs --model.penalty.init_args.form fbnet --model.arch_warmup_epochs 2",
            (
                f"{METHODS}gumbel_gradients.py::test_fbnets_gradient_is_that_of_cross_entropy_times_latency",
                f"{SUPERNETS}fbnet.py::test_fbnet_a_has_the_size_and_cost_of_the_paper",
            ),
            "Latency of FBNet's networks by the table of this machine: 98 % within 5 % of what was measured;"
            " `experiments/latency/README.md`",
            "FBNet-C: 74.9 % on ImageNet",
        ),
        System(
            "SqueezeNAS",
            ("1908.01748",),
            ("supernets.SegmentationSupernet",),
            "oneshot search --config experiments/segmentation/search.yaml",
            (
                f"{SUPERNETS}segmentation.py::test_a_published_network_has_its_published_number_of_macs",
                "tests/reference/test_segmentation_network.py::"
                "test_the_supernet_equals_the_textbook_network_under_random_edge_weights",
            ),
            "Generated shapes: mIoU 0.373 ± 0.006, all layers alike 0.355 ± 0.011, random layers 0.345 ± 0.030;"
            " `experiments/segmentation/README.md`",
            missing="Cityscapes",
        ),
        System(
            "Resource objectives",
            ("1807.11626", "1812.03443", "2002.09128"),
            ("cost.CostPenalty", "cost.measure_latencies"),
            f"{SEARCH} --model oneshot.GDAS --model.penalty oneshot.cost.CostPenalty"
            " --model.penalty.init_args.cost params --model.penalty.init_args.form target"
            " --model.penalty.init_args.target 20000",
            (
                "tests/cost/test_penalty.py::test_the_loss_and_its_gradient_are_those_derived_by_hand",
                "tests/cost/test_penalty.py::test_what_is_derived_keeps_to_the_target",
            ),
            "Six targets of 15 to 40 ms: all networks within 10 % of theirs, none above;"
            " `experiments/latency/README.md`",
        ),
    ],
    "Benchmarks": [
        System(
            "NAS-Bench-101",
            ("1902.09635",),
            ("discrete.nas_bench_101", "supernets.NASBench101Network"),
            f"{TABLE}nas_bench_101 --evaluator.init_args.path nasbench_only108.tfrecord"
            ' --objectives "[max validation_accuracy]" --evaluations 500',
            (
                f"{SUPERNETS}nasbench101.py::test_the_inception_like_cell_has_the_number_of_parameters_of_the_table",
                f"{SUPERNETS}nasbench101.py::test_the_space_has_as_many_cells_as_the_benchmark",
                "tests/discrete/evaluators/test_benchmarks.py::test_nas_bench_101_is_read_with_its_fidelities",
            ),
            missing="the file itself, which its authors offer",
        ),
        System(
            "NAS-Bench-1Shot1",
            ("2001.10422",),
            ("supernets.NASBench1Shot1Supernet",),
            f"{SEARCH} --model.supernet oneshot.supernets.NASBench1Shot1Supernet"
            " --model.supernet.init_args.channels 4 --model.supernet.init_args.cells_per_stage 1",
            (
                f"{SUPERNETS}nasbench1shot1.py::test_the_sizes_are_those_of_the_paper",
                f"{SUPERNETS}nasbench1shot1.py::test_every_cell_is_of_the_benchmark_and_comes_back_as_the_same_cell",
            ),
        ),
        System(
            "NAS-Bench-201",
            ("2001.00326", "2009.00437"),
            ("supernets.NASBench201Supernet", "discrete.nats_bench", "discrete.nas_bench_201_file"),
            f"{TABLE}nats_bench --evaluator.init_args.path NATS-tss-v1_0-3ffb9-simple"
            ' --objectives "[max cifar10_val_accuracy]" --evaluations 500',
            (
                "tests/reference/test_networks.py::"
                "test_the_nasbench201_supernet_equals_the_textbook_network_under_random_edge_weights",
                f"{SUPERNETS}nasbench201.py::test_6466_architectures_are_not_isomorphic",
                "tests/discrete/evaluators/test_benchmarks.py::"
                "test_nats_bench_is_read_from_its_folder_and_from_its_file",
            ),
            "Sixteen methods of search on it: `experiments/compare/README.md`; strategies:"
            " `experiments/discrete/README.md`",
            "best network 94.37 % on CIFAR-10",
        ),
        System(
            "NAS-Bench-301",
            ("2008.09777",),
            ("discrete.darts_surrogate", "discrete.NASBench301Evaluator"),
            f'{TABLE}darts_surrogate --evaluator.init_args.path darts_archs.csv.gz --objectives "[max accuracy]"'
            " --evaluations 500",
            (
                "tests/discrete/evaluators/test_surrogate.py::test_the_whole_table_is_predicted_as_documented",
                "tests/discrete/evaluators/test_benchmarks.py::test_nas_bench_301_predicts_with_the_users_package",
            ),
            "A surrogate of our own, from 1,000 published cells: cross-validated Kendall tau 0.846;"
            " [Discrete search](discrete.md)",
            missing="the official models, which `NASBench301Evaluator` asks where their package is installed",
        ),
    ],
}
SYSTEMS = [system for systems in FAMILIES.values() for system in systems]


def page() -> str:
    """The page of the documentation."""
    lines = [
        "# Systems of the literature",
        "",
        f"{len(SYSTEMS)} systems: the classes of each, a command that runs it from the root of the repository, the",
        "tests of its formulas, what it reached here, what its paper reports, and what is left out. Results here are",
        "of short searches on two cores; those of papers are of other budgets and often of other data, so they do not",
        "compare. `python experiments/systems.py --write` makes this page; a test runs every command, made smaller.",
        "",
        "| system | class | here | published |",
        "|---|---|---|---|",
    ]
    for system in SYSTEMS:
        cells = (f"[{system.name}](#{_anchor(system.name)})", f"`oneshot.{system.classes[0]}`")
        lines.append(f"| {' | '.join((*cells, system.here or 'not measured', system.published or '–'))} |")
    lines.append("")
    for family, systems in FAMILIES.items():
        lines += [f"## {family}", ""]
        for system in systems:
            papers = ", ".join(f"[{paper}](https://arxiv.org/abs/{paper})" for paper in system.papers)
            classes = ", ".join(f"`oneshot.{name}`" for name in system.classes)
            lines += [f"### {system.name}", "", f"{papers}. {classes}.", ""]
            lines += ["```bash", _wrapped(f"{system.command} --out {system.folder}"), "```", ""]
            lines += [f"- Here: {system.here or 'not measured'}."]
            lines += [f"- Published: {system.published}."] if system.published else []
            lines += [f"- Left out: {system.missing}."] if system.missing else []
            lines += ["- Tests:", *(f"    - `{test}`" for test in system.tests), ""]
    return "\n".join(lines)


def _anchor(title: str) -> str:
    """What the title of a section is called in links to it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _wrapped(command: str, width: int = 100) -> str:
    """A command on several lines, broken between options."""
    lines = [""]
    for part in command.replace(" --", "\n--").split("\n"):
        if lines[-1] and len(lines[-1]) + len(part) + 3 > width:
            lines.append("")
        lines[-1] += f" {part}" if lines[-1] else part
    return " \\\n    ".join(lines)


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(page(), encoding="utf-8")
    else:
        print(page(), end="")
