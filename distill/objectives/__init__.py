"""Distillation objectives, one file each.

Each holds `per_token(student_logits, teacher_logits, *, beta) -> Tensor`: logits (K, V) of K answer tokens, in any
float dtype, to the K losses in nats. Pure functions: gradients flow to the student's logits only.
"""
