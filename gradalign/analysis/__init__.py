"""Does an encoder keep the order of time? Measures of attention maps, saliency, Jacobians and norms.

All are pure functions of one utterance and know no network; `gradalign.inspection` applies them to one.
"""
