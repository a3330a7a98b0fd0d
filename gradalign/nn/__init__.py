"""Networks: the Conformer encoder, the attention decoder, and both joined with a CTC head."""
