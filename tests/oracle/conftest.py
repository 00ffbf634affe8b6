"""The oracle's tests run under each attention backend."""

from attention_backends import attention

__all__ = ["attention"]
