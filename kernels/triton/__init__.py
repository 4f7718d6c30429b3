"""The Triton kernels, one file an operation, named as the operations of `isae.kernels`.

They stand apart from their references because Triton decides when it is first imported whether
kernels are compiled or interpreted: import nothing from here before `isae.kernels.dispatch` has
settled that (`choose_kernel` does).
"""
