"""A decoder that sees what is read from latent vectors."""

from typing import Any

import keras
from keras import ops

from gyoza.modelling.attributes import AttributeCode
from gyoza.typing import Tensor

__all__ = ["AttributeDecoder"]


@keras.saving.register_keras_serializable(package="gyoza")
class AttributeDecoder(keras.Layer):
    """Reads the attributes of latent vectors, and decodes the readings.

    Args:
        code: The layout of latent vectors.
        reading: See :meth:`gyoza.modelling.attributes.AttributeCode.read`.
        decoder: Maps the residual block and the readings, side by side, to data.
        **kwargs: Arguments of `keras.Layer`.
    """

    def __init__(
        self, code: AttributeCode, reading: str, decoder: keras.Layer, **kwargs: Any
    ) -> None:
        super().__init__(autocast=False, **kwargs)  # half precision would round classes
        self.code = code
        self.reading = reading
        self.decoder = decoder

    def read(self, latents: Tensor) -> Tensor:
        """Returns the residual block and the readings, side by side."""
        residual_size = self.code.dimensions_per_factor[0]
        readings = self.code.read(latents, self.reading)
        return ops.concatenate([latents[:, :residual_size], readings], axis=1)

    def call(self, latents: Tensor, training: bool | None = None) -> Tensor:
        """Reads and decodes."""
        return self.decoder(self.read(latents), training=training)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "code": keras.saving.serialize_keras_object(self.code),
            "reading": self.reading,
            "decoder": keras.saving.serialize_keras_object(self.decoder),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "AttributeDecoder":
        """Creates a layer from what `get_config` returned."""
        parts = {
            name: keras.saving.deserialize_keras_object(config[name])
            for name in ("code", "decoder")
        }
        return cls(**{**config, **parts})
