// The schemas of requests and responses, from which Fastify compiles validators and serialisers.
export const text = { type: 'string' }
export const number = { type: 'number' }
export const integer = { type: 'integer' }
export const orNull = (schema) => ({ ...schema, nullable: true })
export const object = (properties) => ({ type: 'object', properties, required: Object.keys(properties) })

export const PLACE_ID = object({ id: integer })

export const OBSERVATION = object({
  id: integer, place_id: integer, temperature_c: number, condition: text, note: orNull(text), created_at: text,
  observed_at: orNull(text)
})
