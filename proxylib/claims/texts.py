"""The words of the claims, apart from the numbers: what is claimed, where, and by what rule."""

# id: (what the patent says, where, the rule: fixed before the runs)
CLAIMS: dict[str, tuple[str, str, str]] = {
    "C1": (
        "Proxy-NCA converges about three times as fast as the methods that train on tuples.",
        "FIG. 1 (by its caption over training steps, by its axis over epochs)",
        "Reproduced if the samples that the best baseline needs to its best R@1 are at least 2.5 "
        "times those that Proxy-NCA needs to the same R@1, with the interval above 1; partly if "
        "only the interval is above 1. The best baseline has the highest mean of its best R@1.",
    ),
    "C1b": (
        "Our variation on C1: both times are to 95 % of the best baseline's best R@1, because "
        "when a curve on its plateau has its maximum is mostly chance.",
        "not in the patent; a robust reading of FIG. 1",
        "Reproduced if the ratio of samples is at least 2.5 and its interval is above 1; partly "
        "if only the interval is above 1.",
    ),
    "C2": (
        "Proxy-NCA retrieves better than every baseline: its R@1 is higher.",
        "Tables 1 and 2, FIG. 4 (four baselines; NCA and contrastive are our additions)",
        "Reproduced if the interval of the paired difference in final R@1 is above 0 for each "
        "baseline; partly if each mean is above 0.",
    ),
    "C3": (
        "Its clusters agree better with the classes, too: its NMI is higher.",
        "Tables 1 and 2, section 5 on Stanford Products",
        "Reproduced if the interval of the paired difference in final NMI is above 0 for each "
        "baseline; partly if each mean is above 0.",
    ),
    "C4": (
        "The hinge loss over proxies beats the tuple baselines and is beaten by Proxy-NCA.",
        "Table 1, where Struct Clust is an exception: it is above Proxy-Triplet",
        "Reproduced if Proxy-Triplet's mean R@1 is above each baseline's and below Proxy-NCA's; "
        "partly if one pair is in the wrong order and its interval includes 0.",
    ),
    "C5": (
        "One proxy for two labels is enough to beat the earlier methods, labels put on proxies "
        "at random.",
        "FIG. 6",
        "Reproduced if the mean R@1 at ratio 0.5 is at least the best baseline's; partly if it "
        "is at ratio 0.75.",
    ),
    "C6a": (
        "Half as many proxies as concepts are enough without labels, every point going to its "
        "nearest proxy (by the patent's rule).",
        "FIG. 7, method 1000",
        "Reproduced if the mean R@1 at ratio 0.5 is at least the best baseline's from the same "
        "pre-trained start; partly if it is at ratio 0.75.",
    ),
    "C6b": (
        "Half as many proxies as concepts are enough without labels, every point going to its "
        "nearest proxy (with our stabilisers).",
        "FIG. 7, method 1000; restarts of dead proxies and batch norm are ours",
        "Reproduced if the mean R@1 at ratio 0.5 is at least the best baseline's from the same "
        "pre-trained start; partly if it is at ratio 0.75.",
    ),
    "C7": (
        "With dynamic assignment more proxies than concepts help, until they over-fit.",
        "FIG. 7",
        "Stabilised runs: reproduced if the ratio with the best mean R@1 is above 1 and the "
        "largest ratio's mean is below that; partly if only the first.",
    ),
    "C8": (
        "The loss over proxies bounds the loss over the data from above.",
        "Eq. 9–14, the propositions on the NCA and triplet losses, section 2.3 on ranking",
        "Reproduced if the corrected bounds have 0 violations over all triplets checked, whatever "
        "the norms, seed and step; violations of the published constants are counted beside.",
    ),
    "C9": (
        "The bound gets tighter while training converges.",
        "section 1, second contribution",
        "Reproduced if in every run (norms, seed) the mean slack of both corrected bounds, NCA "
        "and triplet, is smaller after training than before.",
    ),
    "C10": (
        "Training stays stable when batches are larger.",
        "the design of this study, after the paper's set-up; the patent's text does not say it",
        "Reproduced if R@1 at batch 128 is within 2 points of R@1 at batch 32, in the mean.",
    ),
    "C11": (
        "Keeping all embeddings and all proxies at equal norms costs nothing.",
        "training with proxies, the passage on the norms N_P and N_X",
        "Reproduced if R@1 with fixed norms is at least that with free ones in the mean, and the "
        "interval of the difference does not go below −1 point.",
    ),
    "C12": (
        "Embeddings hardly change when the pictured object is turned.",
        "FIG. 5 (Stanford Products)",
        "Reproduced if R@1 of queries turned by 30° is at least 90 % of that of upright ones, the "
        "gallery being upright; partly if it is at 15°.",
    ),
}

# Hypotheses, not findings; shown only where a claim did not reproduce in full.
LIKELY_CAUSES: dict[str, str] = {
    "C1": "Every baseline here has its own tuned settings and batches with several images of each "
    "class, so it meets useful tuples early; small images leave less to gain than Cars196.",
    "C1b": "As C1; and without the long plateau of the baseline there is less time to save.",
    "C2": "The baselines are tuned with as many runs as Proxy-NCA and use their best batches; the "
    "published gap may in part be a gap in tuning.",
    "C3": "NMI depends on one k-means clustering of the test half, whose own noise may hide small "
    "differences between methods.",
    "C4": "The hinge loss has no gradient once its margin is met, so it depends on margin and "
    "scale more than NCA does; and the baselines are tuned.",
    "C5": "Two unrelated classes on one proxy are pulled together. With few, small training "
    "classes that costs more than on Cars196 with a network pre-trained on ImageNet.",
    "C6a": "The nearest proxy is mostly chosen by what the network knew before training. Our "
    "start knows other scripts, and proxies without points stay without them.",
    "C6b": "Half the proxies may be too few after such a start even with labels (06 shows that "
    "run, static); and the nearest proxy cannot tell classes apart that the start does not.",
    "C7": "Differences between neighbouring ratios are of the size of the noise between seeds; "
    "and with few images per class more proxies soon split classes.",
    "C8": "A bound that is proved cannot be violated: look for an error in the code.",
    "C9": "The slack is mostly the term for ε, the error of the worst served point, and one "
    "point suffices to keep it large.",
    "C10": "At an equal budget of samples the larger batch takes a quarter of the steps, and "
    "settings that suit one batch size need not suit the other.",
    "C11": "The product of the norms acts as an inverse temperature; the free norms may find a "
    "better one than the fixed product.",
    "C12": "Training images are turned little or not at all, and the direction of strokes tells "
    "characters apart; objects photographed from all sides are another matter.",
}
