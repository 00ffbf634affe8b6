"""The towers' tests run under each attention backend."""

from attention_backends import attention

__all__ = ["attention"]
