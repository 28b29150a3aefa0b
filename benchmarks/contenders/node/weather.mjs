// The weather: fetched from the upstream for one place or several, and kept in Redis.
const FRESH_TTL = 60 // seconds
const VARIABLES =
  'current=temperature_2m,relative_humidity_2m,precipitation,weather_code,wind_speed_10m' +
  '&daily=precipitation_sum,temperature_2m_max,temperature_2m_min,wind_speed_10m_mean,wind_speed_10m_max' +
  '&wind_speed_unit=ms&timezone=auto&forecast_days=1'

/** Return the offset from UTC as in RFC 3339. */
const offsetOf = (seconds) => {
  if (seconds === 0) return 'Z'
  const minutes = Math.abs(seconds) / 60
  const two = (number) => String(number).padStart(2, '0')
  return `${seconds < 0 ? '-' : '+'}${two(Math.floor(minutes / 60))}:${two(minutes % 60)}`
}

const weatherOf = ({ utc_offset_seconds: offset, current, daily }) => ({
  observed_at: `${current.time}:00${offsetOf(offset)}`,
  temperature_c: current.temperature_2m,
  relative_humidity_percent: current.relative_humidity_2m,
  precipitation_mm: current.precipitation,
  weather_code: current.weather_code,
  wind_speed_m_s: current.wind_speed_10m,
  today: {
    date: daily.time[0],
    precipitation_mm: daily.precipitation_sum[0],
    temperature_max_c: daily.temperature_2m_max[0],
    temperature_min_c: daily.temperature_2m_min[0],
    wind_speed_m_s: daily.wind_speed_10m_mean[0],
    wind_speed_max_m_s: daily.wind_speed_10m_max[0]
  }
})

export const weatherKey = (id) => `peer:weather:${id}`

/** Fetch the weather of places in one call, and store it in Redis. Resolves to one entry for each place. */
export const fetchWeather = async (upstream, redis, places) => {
  const join = (name) => places.map((place) => place[name].toFixed(5)).join(',')
  const answer = await upstream(`/v1/forecast?latitude=${join('latitude')}&longitude=${join('longitude')}&${VARIABLES}`)
  const forecasts = places.length === 1 ? [answer] : answer
  return places.map(({ id }, index) => {
    const entry = { fetched_at: Date.now() / 1000, weather: weatherOf(forecasts[index]) }
    redis.set(weatherKey(id), JSON.stringify(entry), 'EX', FRESH_TTL).catch(() => {})
    return entry
  })
}
